"""E2E's prompt, its grouping by meaning representation, and its protocol."""

from hubinit.tasks import e2e_kasa
from hubinit.tasks.e2e import TASK, group, linearise


def test_the_attributes_are_written_as_in_lora_s_files() -> None:
    meaning = (
        "name[The Vaults], eatType[pub], priceRange[more than £30], customer rating[5 out of 5], familyFriendly[yes], "
        "near[Café Adriatic]"
    )
    assert linearise(meaning) == (
        "name : The Vaults | Type : pub | price : more than £30 | customer rating : 5 out of 5 | family friendly : yes | "
        "near : Café Adriatic"
    )


def test_references_are_grouped_by_runs_of_one_meaning() -> None:
    rows = [{"meaning_representation": m, "human_reference": str(i)} for i, m in enumerate("aabba")]
    assert group(rows) == [
        {"meaning_representation": "a", "references": ["0", "1"]},
        {"meaning_representation": "b", "references": ["2", "3"]},
        {"meaning_representation": "a", "references": ["4"]},
    ]


def test_every_row_is_one_training_example() -> None:
    assert TASK.generative is not None
    row = {"meaning_representation": "name[Cotto]", "human_reference": "Cotto it is."}
    example = TASK.generative.training(row)
    assert (example.prompt, example.completion) == ("name : Cotto ||", " Cotto it is.")
    assert example.prompt == TASK.generative.prompt(group([row])[0])


def test_the_beam_search_is_lora_s() -> None:
    assert TASK.generative is not None
    decoding = TASK.generative.decoding
    assert (decoding.beams, decoding.length_penalty, decoding.no_repeat_ngram, decoding.max_new_tokens) == (
        10,
        0.8,
        4,
        64,
    )


def test_kasa_s_prompt_is_an_alternative() -> None:
    assert e2e_kasa.TASK.generative is not None
    row = {"meaning_representation": "name[Cotto], near[Ranch]", "human_reference": "Cotto it is."}
    example = e2e_kasa.TASK.generative.training(row)
    assert (
        example.prompt + example.completion == "### Context : name[Cotto], near[Ranch]\n### Completion : Cotto it is."
    )
