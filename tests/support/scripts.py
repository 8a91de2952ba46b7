"""Scripts of the repository that are no modules of the package."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

from assets import ROOT


def load_script(path: str) -> ModuleType:
    """Return a script as a module.

    Args:
        path: Its path below the root of the repository.
    """
    spec = spec_from_file_location(path.removesuffix(".py").replace("/", "_"), ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module
