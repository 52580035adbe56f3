"""Clear pictures of what came out, in a private folder of somebody who may see them.

::

    place.py      whether a folder is a private place
    names.py      file names and prompts, kept by the process that scans for the one that writes
    shown.py      what is drawn, and what is known of it
    folder.py     the pictures and the list of what they show
"""
