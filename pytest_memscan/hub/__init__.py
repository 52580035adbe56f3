"""What every download from the Hugging Face Hub needs, whatever is downloaded.

::

    errors.py    what the Hub's errors mean for the user
    snapshot.py  commits, names and hashes: what is on the disk is what the Hub announced

huggingface_hub is imported inside functions (it is slow, and reads its environment variables
``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` when imported).
"""
