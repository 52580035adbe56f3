"""Where a checkpoint comes from, and whether its files can be trusted.

::

    resolve.py   what the user typed -> a folder or file (builtin, local, Hub); imported early
    hub.py       Hub id -> commit -> downloaded and compared with the Hub's hashes
    verify.py    static vetting of the files that will be loaded; no torch, no diffusers
    load.py      folder -> diffusers pipeline on a device; the only module that loads

    families.py       which pipelines are supported, of what parts: the support table
    components.py     what model_index.json names
    layout.py         which files diffusers would load
    configs.py        what a configuration may say: of all, and of unconditional checkpoints
    model_configs.py  what one may say: of text-to-image checkpoints
    tokenizers.py     the files of tokenizers
    files.py          opening files that may be hostile
    header.py         the header of a safetensors file
    weights.py        the tensors of all weight files

    adapter_files.py  a LoRA: finding and vetting it; adapter_names.py, adapter_keys.py and
                      adapter_configs.py say which files, tensors and scales there are
    single_file.py    a fine-tune in one file of the original layout
    claims.py         what files say of their base and prompts
    integrity.py      vetting whatever form a checkpoint has

    finetunes.py         fine-tune and base, loaded and found to belong together, by
    adapters.py          layers of a LoRA (adapter_layers.py: their values)
    single_file_load.py  parts converted from the original layout
    pairing.py           configurations (pairing_configs.py) and weights (weight_sums.py) of the two
                         compared

    fitting.py    weights compared with what the configuration describes; used by load.py
    staging.py    a folder with the vetted files and nothing else to load from
    libraries.py  diffusers and transformers, without remote code, and quiet
"""
