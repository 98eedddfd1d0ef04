"""PersonalLLM (arXiv 2409.20296): the analyses of section 3 and the experiments of section 4."""
