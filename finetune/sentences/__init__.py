"""Labels per sentence of long documents: files, windows, scores and lexical baselines."""
