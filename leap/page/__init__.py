"""The demo page of `python app.py`: what it computes (analysis, search) and how it shows it (layout)."""
