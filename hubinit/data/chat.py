"""From the rows of the user's own data to examples for a model: its tokenizer, its chat template, and what is learnt."""

from collections.abc import Mapping, Sequence
from typing import Any

from hubinit.data.encode import Example, TokenExample, count_common
from hubinit.data.own import UserData
from hubinit.errors import HubinitError, first_line


def examples(found: UserData, tokenizer: Any, *, samples: int, seed: int) -> list[Example | TokenExample]:
    """The chosen rows as examples for `hubinit.data.batches`.

    Args:
        found: from `read`.
        tokenizer: of the model; needs a chat template for conversations.
        samples: how many rows at most.
        seed: of the choice.

    Raises:
        HubinitError: the template is missing, or refuses a row, whose number is named.
    """
    rendered: list[Example | TokenExample] = []
    for number, row in found.chosen(samples, seed):
        place = f"{found.name}, {found.unit} {number}"
        if found.form == "text":
            rendered.append(whole_text(row["text"], tokenizer))
        elif found.form == "messages":
            learnt = _turns_at_the_end(row["messages"])
            rendered.append(conversation(row["messages"], learnt, tokenizer, place))
        elif isinstance(row["prompt"], str):
            rendered.append(Example(row["prompt"], row["completion"]))
        else:
            rendered.append(
                conversation([*row["prompt"], *row["completion"]], len(row["completion"]), tokenizer, place)
            )
    return rendered


def whole_text(text: str, tokenizer: Any) -> TokenExample:
    """A text whose every token is learnt, but the first one, which nothing precedes."""
    tokens = list(tokenizer(text)["input_ids"])
    eos = tokenizer.eos_token_id
    if eos is not None and tokens[-1:] != [eos]:
        tokens.append(eos)
    return TokenExample(tuple(tokens), prompt=1)


def conversation(messages: list[Any], learnt: int, tokenizer: Any, place: str) -> TokenExample:
    """A conversation in the chat template; the loss is on the last `learnt` messages.

    Raises:
        HubinitError: no template, or it cannot render these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise HubinitError(
            f"{tokenizer.name_or_path} has no chat template, which 'messages' need; "
            "use an instruction-tuned model, or give 'prompt' and 'completion'."
        )
    import jinja2

    def render(part: list[Any], opened: bool) -> str:
        text: str = tokenizer.apply_chat_template(part, tokenize=False, add_generation_prompt=opened)
        return text

    try:
        whole, asked = render(messages, False), messages[: len(messages) - learnt]
        # Some templates change earlier turns, or write the opening of an answer in another way than the answer itself.
        prompts = [render(asked, opened) for opened in (True, False)] if asked else [""]
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise HubinitError(f"{place}: the chat template refuses these messages ({first_line(error)}).") from error
    prompt = next((text for text in prompts if whole.startswith(text)), None)
    if prompt is None:
        raise HubinitError(
            f"{place}: the chat template renders the earlier messages differently once they are answered, so the answer "
            "cannot be told from the prompt; give 'prompt' and 'completion' as texts."
        )
    tokens = tokenizer(whole, add_special_tokens=False)["input_ids"]
    head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    # Tokens that would span the border belong to the answer.
    return TokenExample(tuple(tokens), prompt=max(count_common(head, tokens), 1))


def chat_prompt(messages: Sequence[Mapping[str, str]], tokenizer: Any) -> tuple[int, ...]:
    """The tokens of a conversation in the model's chat template, up to where its answer begins.

    Raises:
        HubinitError: no template, or it cannot render these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise HubinitError(f"{tokenizer.name_or_path} has no chat template; use an instruction-tuned model.")
    import jinja2

    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise HubinitError(
            f"The chat template of {tokenizer.name_or_path} refuses a conversation ({first_line(error)})."
        ) from error
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _turns_at_the_end(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many messages at the end are the assistant's."""
    others = [index for index, message in enumerate(messages) if message["role"] != "assistant"]
    return len(messages) - 1 - others[-1] if others else len(messages)
