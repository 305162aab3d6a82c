"""How results are shown: tables, pictures of text, JSON."""
