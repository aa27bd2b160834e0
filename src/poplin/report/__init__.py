"""What a person sees of a fit: the page, the figures, the files.

Start at `html.page` (one self-contained page) and `files.write_results` (what `poplin fit` leaves in its
folder). `views.py` says what each figure shows; `plots.py` draws it with matplotlib, `figures.py` inline.
"""
