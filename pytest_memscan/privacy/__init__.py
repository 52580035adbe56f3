"""What must not leave a run: tokens, places of private data, planted strings, prompts.

::

    values.py     which values are private in this run, and what is shown in their place
    scrubber.py   takes them out of a text
    hooks.py      does so to everything that pytest prints, records or sends
"""
