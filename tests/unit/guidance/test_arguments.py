"""What depends on the prompt is exchanged, what depends on the row is doubled; the rest is told."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from pytest_memscan.guidance.arguments import named, stacked, with_empty_prompt

CALL: dict[str, Any] = {
    "hidden_states": torch.ones(2, 4),
    "encoder_hidden_states": torch.ones(2, 3, 5),
    "timestep": torch.tensor(7),
    "added_cond_kwargs": {"text_embeds": torch.ones(2, 6), "time_ids": torch.ones(2, 6)},
    "img_ids": torch.arange(3),
    "txt_ids": torch.zeros(3),
    "joint_attention_kwargs": {"scale": 0.5},
    "return_dict": False,
    "guidance": None,
}
EMPTY: dict[str, Any] = CALL | {
    "hidden_states": torch.zeros(1, 4),
    "encoder_hidden_states": torch.zeros(1, 3, 5),
    "timestep": torch.tensor(999),
    "added_cond_kwargs": {"text_embeds": torch.zeros(1, 6), "time_ids": torch.zeros(1, 6)},
}


def test_only_what_the_prompt_decides_is_exchanged() -> None:
    asked = with_empty_prompt(CALL, EMPTY)
    assert asked.keys() == CALL.keys()
    assert torch.equal(asked["encoder_hidden_states"], torch.zeros(2, 3, 5))
    assert torch.equal(asked["added_cond_kwargs"]["text_embeds"], torch.zeros(2, 6))
    assert torch.equal(asked["added_cond_kwargs"]["time_ids"], torch.ones(2, 6))
    for name in ("hidden_states", "timestep", "img_ids", "joint_attention_kwargs"):
        assert asked[name] is CALL[name]


def test_rows_come_after_each_other() -> None:
    both = stacked(CALL, with_empty_prompt(CALL, EMPTY))
    assert both["encoder_hidden_states"].flatten(1).sum(1).tolist() == [15, 15, 0, 0]
    assert both["added_cond_kwargs"]["text_embeds"].sum(1).tolist() == [6, 6, 0, 0]
    assert len(both["hidden_states"]) == len(both["added_cond_kwargs"]["time_ids"]) == 4
    for name in ("timestep", "img_ids", "txt_ids", "joint_attention_kwargs", "return_dict"):
        assert both[name] is CALL[name]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mystery": torch.ones(2)}, "argument mystery is not understood"),
        ({"cross_attention_kwargs": {"masks": torch.ones(2)}}, "cross_attention_kwargs is not"),
        ({"txt_ids": torch.ones(3)}, "txt_ids of the prompt and of the empty prompt differ"),
        ({"encoder_hidden_states": torch.ones(2, 4, 5)}, "encoder_hidden_states has shape"),
        ({"timestep": torch.ones(1)}, "timestep has shape .*with 2 rows"),
    ],
)
def test_what_is_not_understood_is_refused(changes: dict[str, Any], message: str) -> None:
    call = CALL | changes
    empty = {name: changes.get(name) for name in changes} | EMPTY
    with pytest.raises(ValueError, match=message):
        stacked(call, with_empty_prompt(call, empty))


def test_models_that_are_told_different_things_are_refused() -> None:
    call = CALL | {"guidance": torch.ones(2)}
    with pytest.raises(ValueError, match="only one of them is given guidance"):
        with_empty_prompt(call, EMPTY)


def test_arguments_by_position_have_names_too() -> None:
    def forward(sample: int, timestep: int, return_dict: bool = True) -> None: ...

    assert named(inspect.signature(forward), (1, 2), {"return_dict": False}) == {
        "sample": 1,
        "timestep": 2,
        "return_dict": False,
    }
