import pytest

from mindone_vq.text.prompts import Prompt, read_prompts


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_has_a_prompt_on_each_line(tmp_path):
    path = write(tmp_path / "prompts.txt", '\ufeffa cat\r\n\n  {"text": "no JSON here"} \r\nein Stück\u2028Käse')
    expected = [("a cat", "000000"), ('{"text": "no JSON here"}', "000001"), ("ein Stück\u2028Käse", "000002")]
    assert read_prompts(path) == [Prompt(*entry) for entry in expected]


def test_an_object_may_have_a_seed_and_an_id(tmp_path):
    lines = [
        '{"text": " a cat ", "file_name": "passed over.png"}',
        '{"text": "a dog", "seed": 7, "id": "dog.1"}',
        "",
        '{"text": "a\u2028cow", "id": 12, "seed": null}',
        '{"text": "caf\\u00e9"}',
    ]
    expected = [Prompt("a cat", "000000"), Prompt("a dog", "dog.1", 7), Prompt("a\u2028cow", "12")]
    assert read_prompts(write(tmp_path / "p.jsonl", "\n".join(lines))) == [*expected, Prompt("café", "000003")]


@pytest.mark.parametrize(
    "bad, said",
    [
        ("a cat", "Expecting value"),
        ('["a cat"]', 'it is no JSON object with "text"'),
        ('{"prompt": "a cat"}', 'it is no JSON object with "text"'),
        ('{"text": 3}', '"text" must be a string'),
        ('{"text": "  "}', '"text" must be a string that is not empty'),
        ('{"text": "\\ud800"}', "surrogates not allowed"),
        ('{"text": "a", "seed": -1}', '"seed" must be an integer, 0 or more'),
        ('{"text": "a", "seed": true}', '"seed" must be'),
        ('{"text": "a", "id": "../a"}', '"id" must be of letters'),
        ('{"text": "a", "id": ".a"}', '"id" must be of letters'),
        ('{"text": "a", "id": "a/b"}', '"id" must be of letters'),
        ('{"text": "a", "id": true}', '"id" must be of letters'),
        ('{"text": "a", "id": "FIRST"}', "its id 'FIRST' is also that of line 1"),
        ('{"text": "a", "id": "000001"}\n{"text": "a"}', None),
        ("[" * 100_000, "recursion"),
        (b'{"text": "\xff"}', "can't decode byte 0xff"),
    ],
)
def test_a_bad_line_is_named(bad, said, tmp_path):
    bad = bad if isinstance(bad, bytes) else bad.encode()
    path = write(tmp_path / "p.jsonl", b'{"text": "a", "id": "first"}\n\n' + bad + b'\n{"text": "b"}')
    if said is None:  # an id that is the number of a later prompt is as good as any other
        assert [prompt.id for prompt in read_prompts(path)] == ["first", "000001", "000002", "000003"]
        return
    with pytest.raises(ValueError) as caught:
        read_prompts(path)
    message = str(caught.value)
    assert message.startswith(f"line 3 of {path} cannot be used: ")
    assert said in message
    assert "\n" not in message
    assert len(message) < 500


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.txt is not a file; give a text file"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="holds no prompt"):
        read_prompts(write(tmp_path / "empty.jsonl", "\n \n"))
