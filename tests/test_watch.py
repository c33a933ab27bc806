import pytest

from fastgan.watch import best_of, evaluations, read_log, remarks


def run(kids, recalls=None, diversities=None, overfitting=0.5) -> list[dict]:
    """A log with an evaluation every 10 kimg, and two lines of the discriminator's before each."""
    count = len(kids)
    log = []
    for i, (kid, recall, diversity) in enumerate(
        zip(kids, recalls or [0.3] * count, diversities or [0.9] * count, strict=True)
    ):
        images = 10_000 * (i + 1)
        log += [{"images": images - 5000, "d_overfitting": overfitting - 0.02}]
        log += [{"images": images, "d_overfitting": overfitting + 0.02}]
        log += [{"images": images, "kid": kid, "kid_std": 0.002, "recall": recall, "diversity": diversity}]
    return log


def test_a_run_that_gets_better_is_left_in_peace():
    assert remarks([]) == {}
    assert remarks(run([0.5, 0.2, 0.1, 0.09, 0.085], overfitting=0.99)) == {}


def test_a_kid_that_keeps_rising_is_called_overfitting_and_the_best_is_named():
    kids = [0.5, 0.2, 0.1, 0.12, 0.13, 0.15]
    said = remarks(run(kids))
    assert said.keys() == {"overfitting"}
    assert "KID rose from 0.1000 to 0.1500" in said["overfitting"]
    assert "The best is at 30.0 kimg, kept in best/" in said["overfitting"]
    assert remarks(run(kids[:5])) == {}  # not yet for long


def test_a_kid_within_its_error_of_the_best_is_not_worse():
    assert remarks(run([0.5, 0.010, 0.0145, 0.0139, 0.0141])) == {}
    assert remarks(run([0.5, 0.010, 0.0165, 0.0139, 0.0161])) == {}  # one good one among the last three
    assert "overfitting" in remarks(run([0.5, 0.010, 0.0165, 0.0159, 0.0161]))
    assert "overfitting" in remarks(run([0.5, -0.001, 0.0165, 0.0159, 0.0161]))


def test_a_recall_that_fell_by_half_twice_is_said():
    kids = [0.5, 0.4, 0.3, 0.2]
    said = remarks(run(kids, recalls=[0.1, 0.4, 0.19, 0.18]))
    assert said.keys() == {"recall"}
    assert "from 0.40 at 20.0 kimg to 0.18" in said["recall"]
    assert remarks(run(kids, recalls=[0.1, 0.4, 0.25, 0.18])) == {}
    assert remarks(run(kids, recalls=[0.0, 0.08, 0.0, 0.0])) == {}  # it never had any


def test_pictures_that_become_alike_are_called_a_collapse():
    said = remarks(run([0.5, 0.3, 0.2, 0.1], diversities=[0.8, 0.9, 0.4, 0.2]))
    assert said.keys() == {"collapse"}
    assert "diversity 0.20, it was 0.90" in said["collapse"]


def test_a_discriminator_that_knows_the_set_by_heart_is_said_once_kid_stands_still():
    assert remarks(run([0.5, 0.3, 0.2], overfitting=0.95)) == {}
    said = remarks(run([0.5, 0.1, 0.11, 0.10], overfitting=0.95))
    assert said.keys() == {"discriminator"}
    assert "98 % of the training pictures' patches" in said["discriminator"]
    assert remarks(run([0.5, 0.1, 0.11, 0.10], overfitting=0.85)) == {}


def test_a_set_that_is_learnt_by_heart_is_said_before_there_are_copies_and_the_best_is_from_before():
    log = run([0.5, 0.1, 0.02, 0.01], recalls=[0.4, 0.5, 0.6, 0.7])
    measured = [line for line in log if "kid" in line]
    for line, distance in zip(measured, (1.3, 0.9, 0.84, 0.8), strict=True):
        line.update(near_share=0.02, distance_ratio=distance)
    assert remarks(log[:-1]) == {}  # not yet twice
    said = remarks(log)
    assert said.keys() == {"near"}
    assert "begins to learn its pictures by heart: what it draws is 0.80 times as far" in said["near"]
    assert "The best is at 20.0 kimg, kept in best/" in said["near"]
    assert best_of(measured) is measured[1]
    for line in measured:
        line["recall"] = 0.4  # of few kinds of pictures, and typical ones
    assert remarks(log) == {}


@pytest.mark.parametrize(("near_share", "distance_ratio"), [(0.3, 0.9), (0.0, 0.4)])
def test_copies_are_said_and_are_never_the_best(near_share, distance_ratio):
    log = run([0.5, 0.1, 0.02, 0.01])
    measured = [line for line in log if "kid" in line]
    for line in measured[2:]:
        line.update(near_share=near_share, distance_ratio=distance_ratio)
    said = remarks(log)
    assert said.keys() == {"copies"}
    assert f"{distance_ratio:.2f} times as far" in said["copies"]
    assert f"{100 * near_share:.0f} % are very close" in said["copies"]
    assert "The best is at 20.0 kimg, kept in best/" in said["copies"]
    assert best_of(measured) is measured[1]
    for line in log:
        line.update({"d_overfitting": 0.99} if "d_overfitting" in line else {})
    assert remarks(log).keys() == {"copies"}  # KID still falls
    for line in log:
        line.update({"d_overfitting": 0.5} if "d_overfitting" in line else {})
    measured[3].update(near_share=0.05, distance_ratio=1.0)
    assert remarks(log) == {}  # once may be chance
    assert best_of(measured) is measured[3]
    assert best_of([measured[2], measured[1]]) is measured[1]
    assert best_of(measured[2:3]) is measured[2]  # better than no model at all


def test_evaluations_carry_what_the_discriminator_did_since_the_one_before():
    log = run([0.3, 0.2])
    assert [line["d_overfitting"] for line in evaluations(log)] == pytest.approx([0.5, 0.5])
    assert best_of(evaluations(log))["images"] == 20_000
    assert best_of([]) is None


def test_a_log_is_read_past_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"images": 8, "kid": 0.5}\n[1]\n{"images": 16, "ki')
    assert read_log(tmp_path / "log.jsonl") == [{"images": 8, "kid": 0.5}]
    assert read_log(tmp_path / "none.jsonl") == []


def test_a_run_that_grew_is_judged_by_what_it_draws_since():
    log = run([0.010, 0.012, 0.05, 0.04, 0.03, 0.02, 0.02], recalls=[0.5] * 2 + [0.1] * 5)
    for line in log:
        line["level"] = 64 if line["images"] <= 20_000 else 128
    assert remarks(log) == {}
    assert best_of(evaluations(log))["images"] == 60_000


def test_a_run_that_keeps_no_best_does_not_speak_of_it():
    said = remarks(run([0.5, 0.2, 0.1, 0.12, 0.13, 0.15]), kept=False)["overfitting"]
    assert said.endswith("The best is at 30.0 kimg")
