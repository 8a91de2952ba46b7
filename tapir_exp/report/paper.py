from pathlib import Path
def write_paper_tables(d: Path) -> Path: return d
