"""Generation engines: transformers, CTranslate2 and vLLM."""
