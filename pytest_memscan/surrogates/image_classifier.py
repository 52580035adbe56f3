"""Any image classifier of transformers as a labeller of the checkpoint's samples.

Another kind of SIDE-A (arXiv:2410.02467): its classes need not be those of the training images,
only split the samples into groups that look alike. Images are prepared by the model's own image
processor in its PIL form. Loaded as `similarity.descriptors.encoders` loads encoders: safetensors
only, no code of the model's own, its files hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_memscan.errors import DescriptorError, MemscanError, OptionError
from pytest_memscan.reports.text import escape
from pytest_memscan.similarity.descriptors.encoder_files import (
    CONFIG,
    choose_files,
    fetch,
    file_hashes,
    joint_hash,
    names_in,
    read_config,
)
from pytest_memscan.similarity.descriptors.encoders import (
    CPU_BATCH_SIZE,
    GPU_BATCH_SIZE,
    ProcessorPreprocessing,
    load_processor,
    quiet,
)
from pytest_memscan.similarity.descriptors.presets import folder_of, hub_id_of, label_of
from pytest_memscan.surrogates.labellers import labels_of_scores
from pytest_memscan.surrogates.labels import MIN_SAMPLES, Assignment, Labels

OPTION = "--memscan-labeller"
_EXAMPLE = "use an image classifier such as microsoft/resnet-18"


@dataclass(frozen=True, kw_only=True)
class ImageClassifier:
    """A trained classifier with its own preprocessing.

    Attributes:
        name: As given, without a private path; of a Hub model also the commit.
        network: Of transformers, on `device`, in evaluation mode.
        preprocess: ``(batch, height, width, channels)`` uint8, 1 or 3 channels -> its input.
        class_names: By class.
        record: SHA-256 of its configuration, preprocessing and weights.
        device: Where it runs.
        batch_size: Samples at a time.
    """

    name: str
    network: torch.nn.Module = field(repr=False)
    preprocess: ProcessorPreprocessing = field(repr=False)
    class_names: tuple[str, ...] = field(repr=False)
    record: Mapping[str, str]
    device: str
    batch_size: int

    def scores(self, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``(num_samples, num_classes)`` of ``(num_samples, height, width, channels)``.

        Raises:
            MemscanError: It gives another number of classes than its configuration, or values
                that are not finite.
        """
        given = np.empty((len(samples), len(self.class_names)), dtype=np.float32)
        for start in range(0, len(samples), self.batch_size):
            pixels = self.preprocess(samples[start : start + self.batch_size]).to(self.device)
            with torch.inference_mode():
                logits = self.network(pixel_values=pixels).logits
            if logits.shape != (len(pixels), len(self.class_names)):
                raise MemscanError(
                    f"{OPTION}: {self.name} gives {tuple(logits.shape[1:])} values for an image, "
                    f"but {CONFIG} names {len(self.class_names)} classes; {_EXAMPLE}"
                )
            given[start : start + len(pixels)] = logits.float().cpu().numpy()
        if not np.isfinite(given).all():
            raise MemscanError(f"{OPTION}: {self.name} gives values that are not finite")
        return given

    def classified(
        self,
        samples: NDArray[np.uint8],
        *,
        assignment: Assignment = "rest",
        least_samples: int = MIN_SAMPLES,
    ) -> Labels:
        """The likeliest class of every sample.

        Args:
            samples: ``(num_samples, height, width, channels)``.
            assignment: As in `labellers.labels_of_scores`.
            least_samples: As in `labellers.labels_of_scores`.

        Raises:
            MemscanError: Fewer than two classes are left, or as `scores`.
        """
        return labels_of_scores(
            self.scores(samples),
            maker="labeller",
            sentence=f"{self.name}, an image classifier of {len(self.class_names)} classes, "
            "labelled the checkpoint's own images",
            assignment=assignment,
            least_samples=least_samples,
            depends_on=self.record,
        )


def check_labeller(spec: str) -> None:
    """Check what can be checked when pytest starts: no network, nothing is loaded.

    Raises:
        OptionError: Neither a folder that may hold a classifier nor a Hub model's name.
    """
    folder = folder_of(spec)
    if folder is None and hub_id_of(spec) is None:
        raise OptionError(
            f"{OPTION}: there is no folder '{escape(spec)}', and it is no Hub model "
            "ORG/NAME[@REVISION]; name an image classifier of transformers"
        )
    if folder is not None:
        try:
            choose_files(
                names_in(folder, label=label_of(folder, spec)), label=label_of(folder, spec)
            )
        except DescriptorError as error:
            raise OptionError(f"{OPTION}: {error}") from None


def classified_by(
    spec: str,
    samples: NDArray[np.uint8],
    *,
    device: str = "cpu",
    offline: bool = False,
    assignment: Assignment = "rest",
    least_samples: int = MIN_SAMPLES,
) -> Labels:
    """Labels of the samples by the classifier that ``--memscan-labeller`` names.

    Args:
        spec: As in `load_labeller`; so are `device` and `offline`.
        samples: ``(num_samples, height, width, channels)``.
        device: Where it runs.
        offline: Take Hub models from the local Hub cache only.
        assignment: As in `labellers.labels_of_scores`.
        least_samples: As in `labellers.labels_of_scores`.

    Raises:
        MemscanError: As `load_labeller` and `ImageClassifier.classified`.
    """
    labeller = load_labeller(spec, device=device, offline=offline)
    return labeller.classified(samples, assignment=assignment, least_samples=least_samples)


def load_labeller(spec: str, *, device: str = "cpu", offline: bool = False) -> ImageClassifier:
    """The classifier that ``--memscan-labeller`` names.

    Args:
        spec: A folder, or "ORG/NAME[@REVISION]". A folder that exists wins.
        device: Where it runs.
        offline: Take Hub models from the local Hub cache only.

    Raises:
        OptionError: As `check_labeller`.
        NotCachedError: Offline, and not all of it is in the cache.
        MemscanError: It cannot be had, trusted or loaded.
    """
    check_labeller(spec)
    folder = folder_of(spec)
    try:
        if folder is not None:
            return load_image_classifier(folder, label=label_of(folder, spec), device=device)
        repo, revision = hub_id_of(spec) or (spec, None)
        folder, commit = fetch(repo, revision, offline=offline)
        return load_image_classifier(folder, label=f"{repo}@{commit[:7]}", device=device)
    except DescriptorError as error:
        raise MemscanError(f"{OPTION}: {error}") from None


def load_image_classifier(folder: Path, *, label: str, device: str = "cpu") -> ImageClassifier:
    """A classifier in a local folder or Hub snapshot.

    Args:
        folder: Holds ``config.json``, ``preprocessor_config.json`` and safetensors weights.
        label: As people name it.
        device: Where it runs.

    Raises:
        DescriptorError: It lacks files, needs code of its own, is no image classifier, lacks
            trained weights, or transformers cannot load or run it.
        MemscanError: Its classes are not those of its configuration.
    """
    files = choose_files(names_in(folder, label=label), label=label)
    _require_classifier(read_config(folder, label=label), label)
    hashes = file_hashes(folder, files, label=label)
    with quiet():
        network = _load_model(folder, label)
        preprocess = ProcessorPreprocessing(processor=load_processor(folder, label))
    config: Any = network.config
    loaded = ImageClassifier(
        name=label,
        network=network.to(device).eval().requires_grad_(False),
        preprocess=preprocess,
        class_names=tuple(str(config.id2label.get(each)) for each in range(config.num_labels)),
        record={
            "config_sha256": hashes[CONFIG],
            "preprocessing_sha256": hashes[files.processor],
            "weights_sha256": joint_hash({name: hashes[name] for name in files.weights}),
        },
        device=device,
        batch_size=CPU_BATCH_SIZE if device == "cpu" else GPU_BATCH_SIZE,
    )
    if len(loaded.class_names) < 2:
        raise DescriptorError(f"{label} knows fewer than two classes; {_EXAMPLE}")
    _try(loaded)
    return loaded


def _require_classifier(config: Mapping[str, Any], label: str) -> None:
    from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING:
        why = (
            "needs code from its own repository, which is never run"
            if "auto_map" in config
            else "is of a type that the installed transformers does not know"
        )
        raise DescriptorError(f"{label} ({escape(model_type)}) {why}; {_EXAMPLE}")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise DescriptorError(
            f"{label} is a {escape(model_type)} model, not an image classifier; {_EXAMPLE}"
        )


def _load_model(folder: Path, label: str) -> torch.nn.Module:
    """The network, trained weights everywhere."""
    from transformers import AutoModelForImageClassification

    loader: Any = AutoModelForImageClassification
    try:
        model, report = loader.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",  # the one that every model has
            ignore_mismatched_sizes=True,  # refused below, with the tensor's name
            output_loading_info=True,
        )
    except Exception as error:
        raise DescriptorError(
            f"transformers cannot load {label} ({type(error).__name__}); its files are damaged or "
            "belong to another version or model"
        ) from None
    mismatched = [key for key, *_ in report["mismatched_keys"]]
    if mismatched:
        raise DescriptorError(
            f"{CONFIG} of {label} names {model.config.num_labels} classes and a network for them, "
            f"but its weights give {escape(min(mismatched))} another shape; they are not the "
            "weights of this model"
        )
    missing = report["missing_keys"]
    if missing:
        raise DescriptorError(
            f"the weights of {label} lack {len(missing)} tensors of its network, such as "
            f"{escape(min(missing))}, so it was never trained as a classifier; {_EXAMPLE}"
        )
    network: torch.nn.Module = model
    return network


def _try(classifier: ImageClassifier) -> None:
    """Run it on one picture: twice, because what is drawn at random is no label."""
    probe = np.random.default_rng(0).integers(0, 256, (1, 48, 64, 3), dtype=np.uint8)
    try:
        first, second = classifier.scores(probe), classifier.scores(probe)
    except MemscanError:
        raise
    except Exception as error:
        raise DescriptorError(
            f"{classifier.name} cannot classify an image ({type(error).__name__}); {_EXAMPLE}"
        ) from None
    if not np.allclose(first, second, rtol=1e-3, atol=1e-5):
        raise DescriptorError(
            f"{classifier.name} classifies the same image differently each time; {_EXAMPLE}"
        )
