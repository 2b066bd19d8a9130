"""What the README shows runs as it stands, in order; and it names the two commands."""

import doctest
import pathlib

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_its_examples_run():
    text = README.read_text().replace("```python\n", "").replace("```\n", "\n")
    test = doctest.DocTestParser().get_doctest(text, {}, "README.md", str(README), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


def test_it_names_the_two_commands_and_what_exists():
    text = README.read_text()
    assert "make demo" in text and "make test" in text
    root = README.parent
    for path in ("jaxpg/types.py", "jaxpg/parts/", "jaxpg/diagnostics/", "experiments/"):
        assert path in text and (root / path).exists()
