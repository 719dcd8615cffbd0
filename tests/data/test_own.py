"""The user's own data: what is read, what is learnt of it, and the number of the first bad row."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubinit.data import chat, own
from hubinit.data.encode import IGNORED, Example, TokenExample, batches, data_hash, encode
from hubinit.errors import HubinitError
from hubinit.specs import DataSpec
from tests import texts

TEMPLATE = (
    "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
ASKED = {"role": "user", "content": "What is the color?"}
ANSWERED = {"role": "assistant", "content": "blue bird"}


def jsonl(folder, *rows, name="own.jsonl"):
    path = folder / name
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def chat_tokenizer(template=TEMPLATE):
    tokenizer = texts.tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def learnt(example, tokenizer):
    """The text of the positions with a loss, and the text of all."""
    encoded = encode(example, tokenizer, 512)
    ids = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label != IGNORED]
    return tokenizer.decode(ids), tokenizer.decode(encoded["input_ids"])


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"prompt": "a", "completion": " b", "extra": 1}, "prompt"),
        ({"messages": [ASKED, ANSWERED]}, "messages"),
        ({"text": "a b"}, "text"),
    ],
)
def test_the_three_forms_are_read_from_every_source(tmp_path, api, row, form):
    path = jsonl(tmp_path, row, "", row)
    pq.write_table(pa.Table.from_pylist([row, row]), tmp_path / "own.parquet")
    repo = f"alice/own-{form}"
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    api.upload_file(path_or_fileobj=path, path_in_repo="train.jsonl", repo_id=repo, repo_type="dataset")
    lines, rows, hub = (own.read(str(source)) for source in (path, tmp_path / "own.parquet", repo))
    assert [n for n, _ in lines.rows] == [1, 3]
    assert [n for n, _ in rows.rows] == [n for n, _ in hub.rows] == [1, 2]
    assert lines.form == rows.form == hub.form == form
    assert lines.rows[0][1] == rows.rows[0][1] == hub.rows[0][1]
    assert (lines.name, hub.name) == ("own.jsonl", repo)
    assert hub.is_dataset
    assert hub.revision == api.dataset_info(repo).sha


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "holds no examples"),
        (["  "], "holds no examples"),
        (['{"text": "a"}', "{"], "line 2 is not JSON"),
        (['[{"text": "a"}]'], "line 1 is a list, not a JSON object"),
        ([{"question": "a"}], "line 1 has 'question'; a row needs 'prompt' and 'completion', or 'messages', or 'text'"),
        ([{"prompt": "a"}], "line 1 has 'prompt'; a row needs"),
        ([{"prompt": "a", "completion": "b"}, {"prompt": "a"}], "line 2: 'completion' is missing"),
        ([{"prompt": "a", "completion": 3}], "line 1: 'completion' is a number, not a text"),
        ([{"prompt": "a", "completion": " "}], "line 1: 'completion' is empty"),
        ([{"text": "a"}, {"text": ["a"]}], "line 2: 'text' is a list"),
        ([{"text": "a"}, {"text": ""}], "line 2: 'text' is empty"),
        ([{"messages": "a"}], "line 1: 'messages' is a text, not a list of messages"),
        ([{"messages": []}], "'messages' is an empty list"),
        ([{"messages": ["a"]}], "message 1 of 'messages' is a text, not an object"),
        ([{"messages": [{"role": "user"}]}], "'content' of message 1 of 'messages' is missing"),
        ([{"messages": [ASKED]}], "ends with the role 'user'"),
        (
            [{"text": "a"}, '{"text": "smile \\ud83d"}'],
            r"line 2: 'text' holds half of a character (the lone surrogate \ud83d)",
        ),
        (
            ['{"messages": [{"role": "assistant", "content": "\\udc00"}]}'],
            "line 1: 'messages' holds half of a character",
        ),
        ([{"messages": [ASKED, {"role": "assistant", "content": ""}]}], "the last message of 'messages' is empty"),
    ],
)
def test_the_first_bad_row_is_named(tmp_path, rows, message):
    with pytest.raises(HubinitError, match=r"own\.jsonl") as caught:
        own.read(str(jsonl(tmp_path, *rows)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_what_they_are_called(tmp_path):
    (tmp_path / "own.parquet").write_text("no")
    (tmp_path / "own.txt").write_text("no")
    (tmp_path / "own.jsonl").write_bytes(b'{"text": "\xff"}')
    for source, message in (
        ("own.parquet", "cannot be read as parquet"),
        ("own.txt", r"neither .jsonl, .csv .* nor .parquet"),
        ("own.jsonl", "line 1 is not UTF-8 text"),
        ("", "is a folder"),
        ("gone.jsonl", "There is no file"),
    ):
        with pytest.raises(HubinitError, match=message):
            own.read(str(tmp_path / source))


def test_a_missing_data_set_is_named(hub):
    with pytest.raises(HubinitError, match="alice/no-such-data"):
        own.read("alice/no-such-data")


def test_parquet_rows_are_counted(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b", None]}), tmp_path / "own.parquet")
    with pytest.raises(HubinitError, match="row 3: 'text' is missing"):
        own.read(str(tmp_path / "own.parquet"))


QUESTION = {"question": 'Is "x, y"\na pair?', "answer": "yes", "text": "no"}
RENAMED = {"prompt": "question", "completion": "answer"}


def write_csv(path, *rows, columns=tuple(QUESTION)):
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)
    return path


def test_the_same_rows_come_out_of_every_kind_of_file_and_of_columns_by_other_names(tmp_path):
    plain = jsonl(tmp_path, QUESTION, QUESTION)
    (tmp_path / "own.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    pq.write_table(pa.Table.from_pylist([QUESTION] * 2), tmp_path / "own.parquet")
    tables = [write_csv(tmp_path / name, QUESTION, QUESTION) for name in ("own.csv", "own.csv.gz")]
    read = [own.read(str(path), columns=RENAMED) for path in (plain, *sorted(tmp_path.glob("*.jsonl.gz")), *tables)]
    read.append(own.read(str(tmp_path / "own.parquet"), columns=RENAMED))
    assert {data.form for data in read} == {"prompt"}, "the mapping decides, though there is a column 'text'"
    assert all(data.rows[0][1] == {"prompt": QUESTION["question"], "completion": "yes"} for data in read)
    assert len({data.identity.sha256 for data in read}) == 1
    assert [number for number, _ in own.read(str(tables[0]), columns=RENAMED).rows] == [2, 4]
    assert own.read(str(plain)).form == "text"


def test_every_other_row_order_or_mapping_is_another_identity(tmp_path):
    rows = [{"text": "a", "other": "b"}, {"text": "c", "other": "d"}]
    found = [
        own.read(str(jsonl(tmp_path, *rows))),
        own.read(str(jsonl(tmp_path, *rows[::-1]))),
        own.read(str(jsonl(tmp_path, rows[0]))),
        own.read(str(jsonl(tmp_path, *rows)), columns={"text": "other"}),
    ]
    assert len({data.identity.sha256 for data in found}) == 4


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("own.csv", b"prompt,completion\na,b\n\na,b,c\n", None, "line 4 has more cells than the header"),
        ("own.csv", b"prompt,completion\na,b\na\n", None, "line 3: 'completion' is missing"),
        ("own.csv", b'text\n"two\nlines"\n""\n', None, "line 4: 'text' is empty"),
        ("own.csv", b'text\n"a\n', None, "line 2 is not CSV"),
        ("own.csv", b"text\na\n\xff\n", None, "line 3 is not UTF-8"),
        ("own.csv", b"", None, "holds no examples"),
        ("own.jsonl.gz", b"no", None, "cannot be unpacked as gzip"),
        ("own.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-9], None, "cannot be unpacked as gzip"),
        ("own.parquet.gz", b"", None, "convert it"),
        (
            "own.csv",
            b"q,a\nx,y\n",
            {"prompt": "question", "completion": "a"},
            "'q', 'a'; .* it needs 'question' and 'a'",
        ),
        ("own.csv", b"q,a\nx,y\n", {"prompt": "q", "text": "a"}, "maps 'prompt' and 'text'; map"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_line(tmp_path, name, content, columns, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HubinitError, match=message) as caught:
        own.read(str(tmp_path / name), columns=columns)
    assert "\n" not in str(caught.value)


def test_a_text_may_be_long_in_csv(tmp_path):
    path = write_csv(tmp_path / "own.csv", {"text": "a" * 200_000}, columns=("text",))
    assert len(own.read(str(path)).rows[0][1]["text"]) == 200_000


def test_a_data_set_with_several_configurations_and_splits(tmp_path, api):
    repo = "alice/own-configs"
    api.create_repo(repo, repo_type="dataset", exist_ok=True)
    card = "---\nconfigs:\n"
    for config in ("easy", "hard"):
        card += f"- config_name: {config}\n  data_files:\n"
        for split in ("train", "test"):
            card += f"  - split: {split}\n    path: {config}-{split}.jsonl\n"
            path = jsonl(tmp_path, {"text": f"{config} {split}"}, name=f"{config}-{split}.jsonl")
            api.upload_file(path_or_fileobj=path, path_in_repo=path.name, repo_id=repo, repo_type="dataset")
    api.upload_file(
        path_or_fileobj=f"{card}---\n".encode(), path_in_repo="README.md", repo_id=repo, repo_type="dataset"
    )
    found = [own.read(repo, config=config, split=split) for config in ("easy", "hard") for split in ("train", "test")]
    assert [data.rows[0][1]["text"] for data in found] == ["easy train", "easy test", "hard train", "hard test"]
    specs = {DataSpec(tasks=(repo,), revisions=(data.revision,), own=data.identity).key for data in found}
    assert len(specs) == 4
    with pytest.raises(HubinitError, match="several configurations; choose one with --data-config: easy, hard"):
        own.read(repo)
    with pytest.raises(HubinitError, match=r"no configuration 'eazy' \(--data-config\): did you mean easy"):
        own.read(repo, config="eazy")
    with pytest.raises(HubinitError, match="Unknown split"):
        own.read(repo, config="easy", split="trian")
    with pytest.raises(HubinitError, match="is a file"):
        own.read(str(tmp_path / "easy-test.jsonl"), config="easy")


def examples(tmp_path, row, tokenizer):
    return chat.examples(own.read(str(jsonl(tmp_path, row))), tokenizer, samples=4, seed=0)


def test_prompt_and_completion_are_encoded_as_every_task_is(tmp_path):
    assert examples(tmp_path, {"prompt": "a", "completion": " b"}, texts.tokenizer()) == [Example("a", " b")]


def test_of_a_text_everything_is_learnt(tmp_path):
    tokenizer = texts.tokenizer(bos=True)
    (example,) = examples(tmp_path, {"text": "the small bird"}, tokenizer)
    assert learnt(example, tokenizer) == ("the small bird</s>", "<s>the small bird</s>")


def test_of_a_conversation_the_last_answer_is_learnt(tmp_path):
    tokenizer = chat_tokenizer()
    messages = [ASKED, ANSWERED, ASKED, {"role": "assistant", "content": "red"}]
    (example,) = examples(tmp_path, {"messages": messages}, tokenizer)
    answer, whole = learnt(example, tokenizer)
    assert answer.strip() == "red</s>"
    assert whole == tokenizer.apply_chat_template(messages, tokenize=False)
    (both,) = examples(tmp_path, {"messages": [ASKED, ANSWERED, ANSWERED]}, tokenizer)
    assert learnt(both, tokenizer)[0].count("blue bird") == 2, "two answers in a row are both learnt"
    (split,) = examples(tmp_path, {"prompt": [ASKED], "completion": [ANSWERED]}, tokenizer)
    (joined,) = examples(tmp_path, {"messages": [ASKED, ANSWERED]}, tokenizer)
    assert split == joined


def test_what_a_chat_template_cannot_do_is_said_with_the_row(tmp_path):
    row = {"messages": [ASKED, ANSWERED]}
    with pytest.raises(HubinitError, match="has no chat template"):
        examples(tmp_path, row, texts.tokenizer())
    with pytest.raises(HubinitError, match=r"own\.jsonl, line 1: the chat template refuses .*no users"):
        examples(tmp_path, row, chat_tokenizer("{{ raise_exception('no users') }}"))
    with pytest.raises(HubinitError, match="line 1: the chat template renders the earlier messages differently"):
        examples(tmp_path, row, chat_tokenizer("{{ messages | length }}{{ messages[-1].content }}"))


def test_long_examples_lose_the_start_of_their_prompt():
    example = TokenExample(tuple(range(10, 30)), prompt=15)
    encoded = encode(example, texts.tokenizer(), 8)
    assert encoded["input_ids"] == list(range(22, 30))
    assert encoded["labels"] == [IGNORED] * 3 + list(range(25, 30))
    assert encode(example, texts.tokenizer(), 4)["labels"] == [IGNORED, 25, 26, 27]


def test_encoded_and_plain_examples_make_one_batch():
    tokenizer = texts.tokenizer()
    mixed = [Example("a", " b"), TokenExample((5, 6, 7, 8, 9, 1), prompt=2)]
    (batch,) = batches(mixed, tokenizer, batch_size=2, max_length=16)
    assert batch["input_ids"].shape == (2, 6)
    assert len({data_hash(mixed), data_hash(mixed[:1]), data_hash([TokenExample((5, 6, 7, 8, 9, 1), prompt=3)])}) == 3


@given(
    messages=st.lists(
        st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text("abc <s>\n", min_size=1)), max_size=5
    ),
    answer=st.text("abc <s>\n", min_size=1).filter(str.strip),
)
@settings(max_examples=50, deadline=None)
def test_every_conversation_ends_with_its_answer(messages, answer):
    tokenizer = chat_tokenizer()
    turns = [{"role": role, "content": text} for role, text in messages] + [{"role": "assistant", "content": answer}]
    example = chat.conversation(turns, 1, tokenizer, "here")
    text, whole = learnt(example, tokenizer)
    assert f"{answer}</s>".endswith(text) or text.endswith(f"{answer}</s>")
    assert whole.endswith(text)
    assert 1 <= example.prompt < len(example.tokens)
