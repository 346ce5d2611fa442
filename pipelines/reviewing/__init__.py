"""Parts of ``pipelines/review.py``: a finished run's cells, what people say of them, the page, what goes out."""
