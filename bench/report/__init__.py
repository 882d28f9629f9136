"""What results say: tables on a terminal, and the page of the documents with its plots.

``summary`` is the arithmetic, ``console`` prints it. ``runs`` chooses among the committed runs,
``aims`` says what was aimed at, ``verdicts`` judges. ``plots`` draws, ``page`` and ``sized`` write
Markdown, and ``writing`` puts all of it where it belongs. Only ``plots`` imports matplotlib.
Nothing here measures.
"""
