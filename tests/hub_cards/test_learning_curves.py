"""What learning curves show, read from the figures themselves, and the files they are written to."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import ROOT
from made_run import (
    COUNTS,
    add_evaluation,
    em_log,
    gradient_log,
    made_scores,
    made_trials,
    make_run,
    write_log,
)
from matplotlib import image

from hub_cards.learning_curves import draw_learning_curves, write_learning_curves
from hub_cards.run_folder import read_run
from hub_cards.several_runs import read_runs


def run_of(folder, log, best_global_step, **settings):
    write_log(make_run(folder, **settings), log, best_global_step)
    return read_run(folder)


def points(axes, what: str) -> list[list[tuple[float, float]]]:
    """The points of each line of this kind."""
    lines = [line.get_xydata() for line in axes.lines if line.get_gid() == what]
    return [[tuple(map(float, point)) for point in line] for line in lines]


def texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def draw(figure) -> None:
    """Draw it; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


def test_losses_and_dev_eer_are_drawn_by_epoch(tmp_path):
    log = gradient_log([0.5, 1.0, 1.5], [0.3, 0.1, 0.2])
    run = run_of(tmp_path / "run", [*log, {"epoch": 1.5, "step": 15, "train_loss": 9.0}], 10)

    figure = draw_learning_curves({"tiny": run})
    draw(figure)

    loss, eer = figure.axes
    assert points(loss, "loss") == [[(0.5, 1 / 1.5), (1.0, 0.5), (1.5, 0.4)]]
    assert points(loss, "eval_loss") == [[(0.5, 2 / 1.5), (1.0, 1.0), (1.5, 0.8)]]
    np.testing.assert_allclose(points(eer, "eval_eer"), [[(0.5, 30), (1.0, 10), (1.5, 20)]])
    style = {line.get_gid(): line.get_linestyle() for line in loss.lines}
    assert (style["loss"], style["eval_loss"]) == ("-", "--")
    assert texts(loss.get_legend()) == ["training loss", "dev loss"]


def test_chosen_epoch_is_marked_on_both_panels_and_named(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([0.5, 1.0, 1.5], [0.3, 0.0625, 0.2]), 10)

    figure = draw_learning_curves({"tiny": run})

    loss, eer = figure.axes
    assert points(loss, "chosen") == [[(1.0, 1.0)]]
    assert points(eer, "chosen") == [[(1.0, 6.25)]]
    assert texts(figure.legends[0]) == ["tiny, chosen: epoch 1, dev EER 6.250 %"]


def test_title_names_system_corpus_and_dev_counts(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([1.0], [0.1]), 10)

    title = draw_learning_curves({"a $system$": run}).get_suptitle()

    assert title == "a $system$\nASVspoof 2019 LA dev: 24 bona fide, 36 spoof"


def test_curves_of_a_demo_model_say_that_they_mean_nothing(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([1.0], [0.1]), 10, corpus="demo")

    title = draw_learning_curves({"tiny": run}).get_suptitle()

    assert "Demo corpus (synthetic, no speech) dev" in title
    assert "Synthetic demo corpus" in title
    assert "mean nothing about real speech" in title.replace("\n", " ")


def test_one_evaluation_without_a_training_loss_is_drawn_as_a_point(tmp_path):
    log = [{"epoch": 1.0, "step": 3, "eval_eer": 0.25, "eval_loss": 0.7}]
    run = run_of(tmp_path / "run", log, 3)

    figure = draw_learning_curves({"tiny": run})
    draw(figure)

    loss, eer = figure.axes
    assert points(loss, "loss") == []
    assert points(eer, "eval_eer") == [[(1.0, 25.0)]]
    assert texts(loss.get_legend()) == ["dev loss"]


def test_run_that_chose_no_epoch_is_drawn_without_a_mark(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([1.0, 2.0], [0.2, 0.1]), None)

    figure = draw_learning_curves({"tiny": run})
    draw(figure)

    assert [points(axes, "chosen") for axes in figure.axes] == [[], []]
    assert texts(figure.legends[0]) == ["tiny (no epoch chosen)"]


def test_average_of_checkpoints_is_named_and_no_epoch_is_marked(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([1.0, 2.0], [0.2, 0.1]), 20)
    run.training["averaging"] = {"steps": [10, 20], "eer": 0.0625, "eer_of_best": 0.1, "is_kept": True}

    figure = draw_learning_curves({"tiny": run})

    assert [points(axes, "chosen") for axes in figure.axes] == [[], []]
    assert texts(figure.legends[0]) == ["tiny, average of 2 checkpoints: dev EER 6.250 %"]


@pytest.mark.parametrize("lowest", [0.00009, 0.0])
def test_small_dev_eers_are_told_apart_on_a_logarithmic_axis(tmp_path, lowest):
    epochs = [float(epoch) for epoch in range(1, 61)]
    eers = [0.05 * 0.9**epoch + 0.0002 for epoch in range(59)] + [lowest]
    run = run_of(tmp_path / "run", gradient_log(epochs, eers), 600)

    figure = draw_learning_curves({"tiny": run})
    draw(figure)

    axes = figure.axes[1]
    heights = axes.transAxes.inverted().transform(axes.transData.transform(points(axes, "eval_eer")[0]))[:, 1]
    assert np.all((heights >= 0) & (heights <= 1))
    assert heights[-2] - heights[-1] > 0.05
    assert "log scale" in axes.get_ylabel()


def test_every_run_has_a_colour_of_its_own_in_lines_marks_and_legend(tmp_path):
    runs = {
        f"system {i}": run_of(
            tmp_path / f"run{i}", gradient_log([1.0, 2.0], [0.2, 0.1 + i / 100]), 20, seed=i
        )
        for i in range(7)
    }

    figure = draw_learning_curves(runs)
    draw(figure)

    drawn = [line.get_color() for line in figure.axes[1].lines if line.get_gid() == "eval_eer"]
    marks = [line.get_color() for line in figure.axes[1].lines if line.get_gid() == "chosen"]
    assert len(set(drawn)) == 7
    assert marks == drawn
    assert [line.get_color() for line in figure.legends[0].legend_handles] == drawn
    assert texts(figure.legends[0])[3] == "system 3, chosen: epoch 2, dev EER 13.000 %"


def test_em_shows_the_log_likelihood_of_both_classes_by_iteration(tmp_path):
    folder = make_run(tmp_path / "gmm", system="lfcc-gmm")
    write_log(folder, em_log(10), None)
    trials = made_trials(prefix="LA_D")
    results = add_evaluation(folder, trials, made_scores(trials, seed=1), name="dev")

    figure = draw_learning_curves({"lfcc-gmm": read_run(folder)})
    draw(figure)

    (axes,) = figure.axes
    assert points(axes, "log_likelihood_bonafide") == [[(i, -30 - 1 / i) for i in range(1, 11)]]
    assert points(axes, "log_likelihood_spoof") == [[(i, -22 - 1 / i) for i in range(1, 11)]]
    assert texts(axes.get_legend()) == ["bona fide", "spoof"]
    expected = f"lfcc-gmm, after iteration 10: dev EER {100 * results['eer']:.3f} %"
    assert texts(figure.legends[0]) == [expected]


def test_em_beside_gradient_descent_is_refused(tmp_path):
    runs = {
        "gmm": run_of(tmp_path / "gmm", em_log(3), None),
        "net": run_of(tmp_path / "net", gradient_log([1.0], [0.1]), 10),
    }

    with pytest.raises(ValueError, match="EM and epochs of gradient descent have no axis in common"):
        draw_learning_curves(runs)


@pytest.mark.parametrize(
    "other",
    [
        {"corpus": "ASVspoof 5"},
        {"splits": {"train": "train", "dev": "train[90%:]"}},
        {"counts": {"dev": COUNTS | {"spoof": 35}}},
    ],
    ids=["corpus", "split", "counts"],
)
def test_curves_of_other_dev_trials_are_refused(tmp_path, other):
    log = gradient_log([1.0], [0.1])
    runs = {"a": run_of(tmp_path / "a", log, 10), "b": run_of(tmp_path / "b", log, 10, **other)}

    with pytest.raises(ValueError, match="dev trials of a are .*those of b are"):
        draw_learning_curves(runs)


@pytest.mark.parametrize("name", ["trainer_state.json", "training.json"])
def test_run_without_its_log_or_record_is_refused_by_name(tmp_path, name):
    folder = make_run(tmp_path / "run")
    write_log(folder, gradient_log([1.0], [0.1]), 10)
    (folder / name).unlink()

    with pytest.raises(FileNotFoundError, match=str(folder / name)):
        draw_learning_curves({"tiny": read_run(folder)})


@pytest.mark.parametrize(
    ("log", "best", "message"),
    [
        ([], None, "log_history has no eval_eer"),
        ([{"epoch": 1.0, "step": 10, "loss": 1.0}], None, "log_history has no eval_eer"),
        (em_log(2)[:2], None, "log_history has no log_likelihood_spoof"),
    ],
    ids=["empty", "no evaluation", "one class"],
)
def test_log_without_what_is_drawn_is_refused(tmp_path, log, best, message):
    run = run_of(tmp_path / "run", log, best)

    with pytest.raises(ValueError, match=f"trainer_state.json: .*{message}"):
        draw_learning_curves({"tiny": run})


def test_picture_is_opaque_and_sharp_at_twice_a_cards_width(tmp_path):
    run = run_of(tmp_path / "run", gradient_log([1.0, 2.0], [0.2, 0.1]), 20)
    path = run.folder / "learning_curves" / "tiny.png"

    write_learning_curves({"tiny": run}, path)

    picture = image.imread(path)
    assert picture.shape[1] == 1600
    assert picture.shape[2] == 3 or np.all(picture[..., 3] == 1)
    np.testing.assert_array_equal(picture[0, 0, :3], 1)
    assert [found.name for found in path.parent.iterdir()] == ["tiny.png"]


def test_trained_run_has_learning_curves(trained):
    figure = draw_learning_curves({"tiny": read_run(trained)})
    draw(figure)

    run = read_run(trained)
    evaluated = [entry["epoch"] for entry in run.trainer_state["log_history"] if "eval_eer" in entry]
    (line,) = points(figure.axes[1], "eval_eer")
    assert [epoch for epoch, _ in line] == evaluated


def test_runs_of_one_system_are_told_apart_by_their_folders(tmp_path):
    for place in ("a/run", "b/run", "other"):
        make_run(tmp_path / place, system="lcnn" if place == "other" else "rawnet2")

    runs = read_runs([tmp_path / "a/run", tmp_path / "b/run", tmp_path / "other"])

    assert list(runs) == ["rawnet2 (a/run)", "rawnet2 (b/run)", "lcnn"]


def test_run_given_twice_is_refused(tmp_path):
    folder = make_run(tmp_path / "run")

    with pytest.raises(ValueError, match="is given twice"):
        read_runs([folder, tmp_path / "." / "run"])


def test_command_draws_two_runs_into_one_png(tmp_path):
    for i, name in enumerate(("baseline", "improved")):
        run_of(tmp_path / name, gradient_log([1.0, 2.0], [0.2, 0.1]), 20, seed=i)
    output = tmp_path / "learning_curves" / "tiny_baseline_vs_improved.png"
    command = [sys.executable, "-m", "hub_cards.learning_curves", tmp_path / "baseline"]

    done = subprocess.run(
        [*command, tmp_path / "improved", "--output", output], cwd=ROOT, capture_output=True
    )
    failed = subprocess.run([*command, tmp_path / "none", "--output", output], cwd=ROOT, capture_output=True)

    assert (done.returncode, done.stderr) == (0, b"")
    assert image.imread(output).shape[1] == 1600
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"python -m hub_cards.learning_curves: error: ")
    assert b"holds no config.json" in failed.stderr
