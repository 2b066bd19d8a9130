"""The demo: agents learn, three figures, a table."""

from experiments import demo


def test_it_trains_draws_and_audits(tmp_path, capsys):
    assert demo.main("smoke", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "2 seeds in one program, 8,192 steps each" in printed
    assert "reach a mean return of 475" in printed
    assert "grpo" in printed and "rloo" in printed
    assert (tmp_path / "cartpole.png").stat().st_size > 10_000
    assert (tmp_path / "audit.png").stat().st_size > 10_000
    assert "success on 125 problems held out" in printed and "after: " in printed
    assert (tmp_path / "grpo.png").stat().st_size > 10_000
    assert "the least possible is 6.836" in printed
    assert (tmp_path / "inventory.png").stat().st_size > 10_000
