"""Where a checkpoint comes from, and whether its files can be trusted.

::

    resolve.py   what the user typed -> a folder (builtin, local, Hub); imported early: light
    hub.py       Hub id -> commit -> downloaded and compared with the Hub's hashes
    verify.py    static vetting of the files that will be loaded; no torch, no diffusers
    load.py      folder -> diffusers pipeline on a device; the only module that loads

    layout.py    which files diffusers would load, and what we support
    configs.py   what a configuration may say
    files.py     opening files that may be hostile
    header.py    the header of a safetensors file
    weights.py   the tensors of all weight files
"""
