"""Training images and prompts: where they come from, reading, conversion.

::

    sources.py     what the user typed -> which files or repository; imported early: light
    listing.py     the files behind a source, found without opening them; the same at the end?
    readers/       one module a format: files -> records, one after the other
    conversion.py  one record -> the pixels a checkpoint was trained on
    images.py      records of any format -> one memory-mapped array, every bad one named
    pixel_file.py  the file in the cache behind that array
    prompts.py     what the user typed -> a source of prompts -> different prompts; light
    prompt_rules.py  which lines are prompts
    negatives.py   prompts that were not trained on, for calibration
    probe_prompts.txt  what is tried where nobody gave prompts
    naming.py      names of files in messages
"""
