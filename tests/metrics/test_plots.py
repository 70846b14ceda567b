"""What plots show, read from the figures themselves, and the files they are written to."""

import warnings

import numpy as np
import pytest
from matplotlib import image

from metrics import plots
from metrics.det import det_curve, equal_error_rate
from processing.files import write_figure


def normal(num_bonafide: int, num_spoof: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    return generator.normal(1, 1, num_bonafide), generator.normal(-1, 1, num_spoof)


def line(figure, label: str):
    """The line of this name, as (x, y)."""
    return next(line for line in figure.axes[0].lines if line.get_label() == label).get_data()


def texts(figure) -> list[str]:
    """All that is written inside the axes, as it is drawn."""
    return [text.get_text() for text in figure.axes[0].texts]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def draw(figure) -> None:
    """Draw it; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()


def on_curve(figure, label: str, scores) -> tuple[np.ndarray, np.ndarray]:
    """
    What the drawn line says of every point of the curve, and the curve: each (points, 2). Along the curve
    FRR - FAR only rises, so it tells where on the line a point must lie.
    """
    frr, far, _ = det_curve(*scores)
    x, y = line(figure, label)
    drawn = [np.interp(frr - far, y - x, values) for values in (x, y)]
    return np.stack(drawn, 1), np.stack([far, frr], 1)


# DET plot


def test_det_line_passes_through_every_point_of_the_curve():
    scores = normal(200, 300)

    figure = plots.plot_det({"system": scores})

    drawn, curve = on_curve(figure, "system", scores)
    np.testing.assert_allclose(drawn, curve, atol=1e-12)


def test_det_line_of_tied_scores_passes_through_every_point_of_the_curve():
    scores = tuple(np.round(of_class) for of_class in normal(200, 300))

    figure = plots.plot_det({"system": scores})

    drawn, curve = on_curve(figure, "system", scores)
    np.testing.assert_allclose(drawn, curve, atol=1e-12)


def test_det_line_of_600000_trials_is_thin_keeps_its_ends_and_does_not_move_visibly():
    scores = normal(300_000, 300_000)

    figure = plots.plot_det({"system": scores})

    x, y = line(figure, "system")
    assert len(x) <= plots.MAX_POINTS
    assert (x[0], y[0], x[-1], y[-1]) == (1, 0, 0, 1)
    drawn, curve = on_curve(figure, "system", scores)
    lowest, highest = figure.axes[0].get_xlim()
    shown = ((curve >= lowest) & (curve <= highest)).all(1)
    to_axes = figure.axes[0].transScale.transform
    width = np.ptp(to_axes([[lowest, lowest], [highest, highest]])[:, 0])
    distance = np.abs(to_axes(drawn[shown]) - to_axes(curve[shown])).max(1) / width
    assert shown.sum() > 100_000
    assert np.quantile(distance, 0.999) < 0.002 and distance.max() < 0.01  # 960 pixels wide: 2, and 10


def test_operating_points_lie_at_the_rates_of_their_thresholds():
    bonafide, spoof = normal(200, 300)
    eer, eer_threshold = equal_error_rate(bonafide, spoof)
    points = [plots.OperatingPoint("EER", eer_threshold), plots.OperatingPoint("at 0.5", 0.5)]

    figure = plots.plot_det({"system": (bonafide, spoof)}, {"system": points})

    at_eer, at_half = (np.ravel(line(figure, name)) for name in ("EER", "at 0.5"))
    assert at_eer.mean() == pytest.approx(eer)
    assert at_eer == pytest.approx([(spoof > eer_threshold).mean(), (bonafide <= eer_threshold).mean()])
    assert at_half == pytest.approx([(spoof > 0.5).mean(), (bonafide <= 0.5).mean()])


@pytest.mark.parametrize(("threshold", "rates"), [(-np.inf, [1, 0]), (np.inf, [0, 1])])
def test_operating_point_that_accepts_or_rejects_all_is_drawn_at_the_corner_of_the_axes(threshold, rates):
    points = {"system": [plots.OperatingPoint("all", threshold)]}

    figure = plots.plot_det({"system": normal(200, 300)}, points)

    draw(figure)
    assert np.ravel(line(figure, "all")).tolist() == rates
    axes = figure.axes[0]
    corner = axes.transAxes.inverted().transform(axes.transData.transform([rates]))[0]
    assert corner == pytest.approx(rates, abs=1e-6)


def test_det_plot_names_systems_points_and_axes():
    scores = normal(200, 300)
    points = {"first": [plots.OperatingPoint("EER 16 %", 0.0)]}

    figure = plots.plot_det({"first": scores, "second": scores[::-1]}, points, title="LA eval: 500 trials")

    assert legend(figure) == ["first", "EER 16 %", "second"]
    axes = figure.axes[0]
    assert axes.get_title() == "LA eval: 500 trials"
    assert "False acceptance" in axes.get_xlabel() and "False rejection" in axes.get_ylabel()


def test_det_axes_are_normal_deviates():
    figure = plots.plot_det({"system": normal(2000, 3000)})

    # Normal scores of one variance give a straight line of slope -1 there: these rates are equally far apart.
    at = figure.axes[0].transScale.transform([[0.0227501, 0], [0.1586553, 0], [0.5, 0]])[:, 0]
    assert at[1] - at[0] == pytest.approx(at[2] - at[1], rel=1e-5)


ODD = {
    "perfect separation": (np.arange(5.0) + 10, np.arange(7.0)),
    "constant": (np.zeros(5), np.zeros(7)),
    "two trials": (np.array([1.0]), np.array([0.0])),
    "two trials, wrong way round": (np.array([0.0]), np.array([1.0])),
    "two trials, tied": (np.array([0.0]), np.array([0.0])),
    "inverted": normal(300, 300)[::-1],
    "one bona fide": normal(1, 300),
    "last bit": (np.array([1.0, np.nextafter(1, 2)]), np.array([1.0, 1.0])),
}


@pytest.mark.parametrize("case", ODD)
def test_det_plot_of_odd_scores_is_drawn_without_a_warning(case):
    points = [plots.OperatingPoint("EER", equal_error_rate(*ODD[case])[1])]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plots.plot_det({"system": ODD[case]}, {"system": points})

    draw(figure)
    drawn, curve = on_curve(figure, "system", ODD[case])
    np.testing.assert_allclose(drawn, curve, atol=1e-12)


def test_det_plot_says_which_system_makes_no_errors_since_its_curve_is_hidden_by_the_axes():
    perfect, other = ODD["perfect separation"], normal(200, 300)

    figure = plots.plot_det({"$a": perfect, "b": other, "c": perfect})

    draw(figure)
    assert texts(figure) == [
        "No errors: EER 0 % ($a); the curve lies on the axes.\n"
        "No errors: EER 0 % (c); the curve lies on the axes."
    ]


def test_det_plot_of_systems_with_errors_has_no_text_inside():
    assert texts(plots.plot_det({"a": normal(200, 300)})) == []


def test_markers_of_the_legend_have_one_size_so_that_none_covers_the_next_line():
    points = {"a": [plots.OperatingPoint(name, 0.0) for name in "xyz"]}

    figure = plots.plot_det({"a": normal(200, 300)}, points)

    draw(figure)
    handles = figure.axes[0].get_legend().legend_handles
    markers = [handle.get_marker() for handle in handles[1:]]
    sizes = {handle.get_markersize() for handle in handles[1:]}
    assert markers == ["o", "s", "D"] and sizes == {plots.MARKER_SIZE}
    drawn = [next(line for line in figure.axes[0].lines if line.get_label() == name) for name in "xyz"]
    assert len({line.get_markersize() for line in drawn}) == 3  # one around the other where they coincide


# Histograms


@pytest.mark.parametrize("case", [*ODD, "random"])
def test_histogram_bars_of_each_class_add_up_to_100_percent(case):
    bonafide, spoof = ODD.get(case) or normal(50, 2000)

    figure = plots.plot_score_histograms(bonafide, spoof, threshold=0.0)

    draw(figure)
    shares = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    assert shares == pytest.approx([100, 100])


def test_histogram_bars_stand_where_the_scores_are():
    figure = plots.plot_score_histograms([5.0, 6.0, 7.0, 8.0], [0.0, 0.1, 0.2, 5.0])

    bonafide, spoof = figure.axes[0].containers
    assert sum(bar.get_height() for bar in bonafide if bar.get_x() < 4) == 0
    assert sum(bar.get_height() for bar in spoof if bar.get_x() < 4) == pytest.approx(75)


def test_histogram_names_classes_with_their_counts_and_marks_the_threshold():
    figure = plots.plot_score_histograms(*normal(50, 2000), threshold=0.25)

    assert sorted(legend(figure)) == ["EER threshold", "bona fide (50)", "spoof (2,000)"]
    x, _ = line(figure, "EER threshold")
    assert list(x) == [0.25, 0.25]


# Breakdowns


def group(eer, **more) -> dict:
    return {"eer": eer, "num_bonafide": 100, "num_spoof": 2000, **more}


def test_bars_are_as_high_as_the_error_rates_of_their_groups():
    groups = {"A07": group(0.02), "A08": group(0.0), "A17": group(0.155)}

    figure = plots.plot_breakdown(groups, pooled_eer=0.06, name="attack")

    draw(figure)
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([2, 0, 15.5])
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{name}\n(2,000)" for name in groups]
    assert texts(figure) == ["2", "0", "15.5", "all\n6"]
    assert [list(line.get_ydata()) for line in axes.lines] == [[6, 6]]


def test_interval_of_a_group_is_drawn_over_its_bar_and_inside_the_axes():
    figure = plots.plot_breakdown({"A07": group(0.02, eer_interval=(0.01, 0.2))}, pooled_eer=0.02)

    axes = figure.axes[0]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([1, 20])
    assert axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > 21.5  # room for the number above it


def test_group_of_one_class_has_no_bar_but_says_so():
    figure = plots.plot_breakdown({"alaw": group(0.02), "none": group(None)}, pooled_eer=0.02)

    draw(figure)
    assert [bar.get_height() for bar in figure.axes[0].patches] == pytest.approx([2])
    note = next(text for text in figure.axes[0].texts if "one class" in text.get_text())
    assert note.get_position()[0] == 1


@pytest.mark.parametrize("groups", [{"A07": group(0.0), "A08": group(0.0)}, {"A07": group(None)}])
def test_axis_of_groups_without_errors_reaches_1_percent(groups):
    figure = plots.plot_breakdown(groups, pooled_eer=0.0)

    draw(figure)
    assert figure.axes[0].get_ylim() == (0, 1)


def test_axis_is_scaled_by_the_smallest_error_rate_that_is_not_zero():
    figure = plots.plot_breakdown({"A07": group(0.0), "A08": group(0.0001)}, pooled_eer=0.0)

    assert 0.01 < figure.axes[0].get_ylim()[1] < 0.02


@pytest.mark.parametrize(
    "groups",
    [
        {"A07": group(0.02)},
        {"A07": group(0.0)},
        {"A07": group(None)},
        {f"codec-with-a-long-name-{i}": group(i / 240) for i in range(120)},
    ],
    ids=["one", "without errors", "one class", "120"],
)
def test_any_number_of_groups_is_drawn_without_a_warning(tmp_path, groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_figure(tmp_path / "a.png", plots.plot_breakdown(groups, pooled_eer=0.0, name="codec"))

    assert image.imread(tmp_path / "a.png").std() > 0


def test_bars_of_120_groups_do_not_overlap():
    figure = plots.plot_breakdown({f"A{i}": group(i / 240) for i in range(120)}, pooled_eer=0.25)

    bars = figure.axes[0].patches
    left, right = (np.array([edge(bar) for bar in bars]) for edge in (lambda b: b.get_x(), right_edge))
    assert len(bars) == 120 and (left[1:] > right[:-1]).all()


def right_edge(bar) -> float:
    return bar.get_x() + bar.get_width()


# Timelines


def test_timeline_has_every_window_at_its_middle_and_on_its_side_of_the_threshold():
    figure = plots.plot_timeline([0, 2, 4], [1.5, -1, 0.5], window_seconds=4, threshold=0.5)

    axes = figure.axes[0]
    points = {of.get_label(): of.get_offsets().tolist() for of in axes.collections}
    assert points == {"above the threshold": [[2, 1.5]], "below the threshold": [[4, -1], [6, 0.5]]}
    assert list(line(figure, "threshold of single crops")[1]) == [0.5, 0.5]
    assert axes.get_xlim() == (0, 8)


def test_timeline_without_a_threshold_has_every_window_and_no_verdict():
    figure = plots.plot_timeline([0, 2], [1.5, -1], window_seconds=4)

    draw(figure)
    assert figure.axes[0].collections[0].get_offsets().tolist() == [[2, 1.5], [4, -1]]
    assert figure.axes[0].get_legend() is None


def test_timeline_of_an_hour_is_in_minutes_as_are_its_shaded_segments():
    starts, segments = np.arange(0, 3600, 2), [(60, 90), (1800, 1860)]

    figure = plots.plot_timeline(
        starts, np.zeros(1800), window_seconds=4, threshold=-2, segments=segments, title="a"
    )

    axes = figure.axes[0]
    assert "minutes" in axes.get_xlabel() and axes.get_ylabel() == "LLR"
    assert axes.get_xlim() == (0, pytest.approx(3602 / 60))
    shaded = [(of.get_x(), of.get_x() + of.get_width()) for of in axes.patches]
    assert shaded == [(1, 1.5), (30, pytest.approx(31))]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["above the level", "below the level", "level of alarm", "segments"]


# Files


def test_figure_is_saved_as_a_png_of_its_size_and_nothing_is_left_beside_it(tmp_path):
    (tmp_path / "scores.png").write_bytes(b"what was there before")

    write_figure(tmp_path / "scores.png", plots.plot_score_histograms(*normal(50, 50)))

    assert image.imread(tmp_path / "scores.png").shape == (630, 1080, 4)  # 7.2 x 4.2 inches of 150 dpi
    assert [path.name for path in tmp_path.iterdir()] == ["scores.png"]


def test_figure_that_can_not_be_drawn_leaves_the_old_file_as_it_was(tmp_path):
    (tmp_path / "a.png").write_bytes(b"what was there before")
    figure = plots.plot_score_histograms(*normal(50, 50))
    figure.axes[0].set_xlabel("$\\nonsense$")

    with pytest.raises(ValueError):
        write_figure(tmp_path / "a.png", figure)

    assert (tmp_path / "a.png").read_bytes() == b"what was there before"


NAMES = ["cash$in$hand", "a_b^c", "$\\nonsense$", "$", "a\\$b", "голос é.wav", "_hidden"]


def pixels(figure, tmp_path) -> np.ndarray:
    write_figure(tmp_path / "a.png", figure)
    return image.imread(tmp_path / "a.png")


@pytest.mark.parametrize("name", NAMES)
def test_title_is_drawn_literally(tmp_path, name):
    figure = plots.plot_timeline([0, 2], [1, -1], window_seconds=4, title=name)
    expected = plots.plot_timeline([0, 2], [1, -1], window_seconds=4)
    expected.axes[0].set_title(name, fontsize=10, parse_math=False)

    np.testing.assert_array_equal(pixels(figure, tmp_path), pixels(expected, tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_system_is_named_literally_in_the_legend(tmp_path, name):
    scores = normal(20, 30)
    figure = plots.plot_det({name: scores}, {name: [plots.OperatingPoint("EER", 0.0)]})
    expected = plots.plot_det({"x": scores}, {"x": [plots.OperatingPoint("EER", 0.0)]})
    first = expected.axes[0].get_legend().get_texts()[0]
    first.set_parse_math(False)
    first.set_text(name)

    np.testing.assert_array_equal(pixels(figure, tmp_path), pixels(expected, tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_group_is_named_literally_under_its_bar(tmp_path, name):
    figure = plots.plot_breakdown({name: group(0.1)}, pooled_eer=0.1, name="codec")
    expected = plots.plot_breakdown({name: group(0.1)}, pooled_eer=0.1, name="codec")
    of_bar = expected.axes[0].get_xticklabels()[0]
    rotation = {"rotation": of_bar.get_rotation(), "ha": of_bar.get_ha(), "fontsize": 8}
    expected.axes[0].set_xticks([0], [f"{name}\n(2,000)"], parse_math=False, **rotation)

    np.testing.assert_array_equal(pixels(figure, tmp_path), pixels(expected, tmp_path))


def test_title_in_a_script_that_the_font_lacks_is_no_error(tmp_path):
    with pytest.warns(UserWarning, match="Glyph"):
        write_figure(tmp_path / "a.png", plots.plot_timeline([0, 2], [1, -1], window_seconds=4, title="声"))

    assert (tmp_path / "a.png").is_file()
