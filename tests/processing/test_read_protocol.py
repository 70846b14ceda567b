from collections import Counter
from pathlib import Path

import pytest

from processing.layouts import LAYOUTS, read_protocol
from processing.trials import Corpus, read_label_map


LINES = {
    "2019": "LA_0039 LA_E_2834763 - A11 spoof\nLA_0004 LA_E_5007220 - - bonafide\n",
    "2021 LA": (
        "LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval\n"
        "LA_0020 LA_E_7294490 g722 loc_tx bonafide bonafide notrim eval\n"
        "LA_0010 LA_E_1000001 none loc_tx A10 spoof notrim progress\n"
        "LA_0011 LA_E_1000002 opus sin_tx bonafide bonafide trim hidden\n"
    ),
    "2021 DF": (
        "LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -\n"
        "LA_0047 DF_E_2000060 high_ogg asvspoof - bonafide notrim eval bonafide - - - -\n"
    ),
    "5": "E_1607 E_0009538969 M C05 2 E_0009486171 AC1 A26 spoof -\nE_2 E_1 F - 0 - - bonafide bonafide -\n",
    "wild": "file,speaker,label\n0.wav,Alec Guinness,spoof\n1.wav,Alec Guinness,bona-fide\n",
}


def read(folder: Path, name: str, layout: str) -> Corpus:
    (folder / name).write_text(LINES[layout])
    return read_protocol(folder / name)


@pytest.mark.parametrize(
    ("name", "layout", "corpus", "split", "breakdowns"),
    [
        ("ASVspoof2019.LA.cm.train.trn.txt", "2019", "ASVspoof 2019 LA", "train", ()),
        ("ASVspoof2019.LA.cm.dev.trl.txt", "2019", "ASVspoof 2019 LA", "dev", ()),
        ("ASVspoof2019.LA.cm.eval.trl.txt", "2019", "ASVspoof 2019 LA", "eval", ()),
        ("ASVspoof5.eval.track_1.tsv", "5", "ASVspoof 5", "eval", ("codec",)),
        ("ASVspoof5.train.tsv", "5", "ASVspoof 5", "train", ("codec",)),
        ("meta.csv", "wild", "In-the-Wild", "eval", ()),
    ],
)
def test_a_protocol_under_its_official_name_is_a_split_of_its_corpus(
    tmp_path, name, layout, corpus, split, breakdowns
):
    protocol = read(tmp_path, name, layout)
    assert (protocol.name, list(protocol.splits), protocol.breakdowns) == (corpus, [split], breakdowns)
    assert protocol.splits[split].key.tolist() == ["spoof", "bonafide"]


@pytest.mark.parametrize(("layout", "breakdowns"), [("2019", ()), ("5", ("codec",)), ("wild", ())])
def test_a_protocol_under_another_name_goes_by_that_name(tmp_path, layout, breakdowns):
    protocol = read(tmp_path, "my_trials.txt", layout)
    assert (protocol.name, list(protocol.splits)) == ("my_trials.txt", ["all"])
    assert protocol.breakdowns == breakdowns


@pytest.mark.parametrize(
    ("name", "corpus"), [("trial_metadata.txt", "ASVspoof 2021 LA"), ("cut_down.txt", "cut_down.txt")]
)
def test_2021_la_is_split_by_subset_under_any_name(tmp_path, name, corpus):
    protocol = read(tmp_path, name, "2021 LA")
    assert (protocol.name, protocol.breakdowns) == (corpus, ("codec", "transmission"))
    assert {split: trials.utterance_id.tolist() for split, trials in protocol.splits.items()} == {
        "eval": ["LA_E_9332881", "LA_E_7294490"],
        "progress": ["LA_E_1000001"],
        "hidden": ["LA_E_1000002"],
    }
    assert protocol.splits["eval"].drop(columns=["utterance_id", "speaker_id", "attack", "key"]).to_dict(
        "list"
    ) == {
        "codec": ["alaw", "g722"],
        "transmission": ["ita_tx", "loc_tx"],
        "trim": ["notrim", "notrim"],
    }


def test_2021_df_is_told_from_la_by_its_fields(tmp_path):
    protocol = read(tmp_path, "trial_metadata.txt", "2021 DF")
    assert (protocol.name, sorted(protocol.splits)) == ("ASVspoof 2021 DF", ["eval", "progress"])
    assert protocol.splits["progress"]["vocoder_type"].tolist() == ["traditional_vocoder"]


def test_in_the_wild_utterances_are_named_by_their_files(tmp_path):
    trials = read(tmp_path, "meta.csv", "wild").splits["eval"]
    assert (trials.utterance_id.tolist(), trials.attack.tolist()) == (["0", "1"], ["unknown", "-"])


@pytest.mark.parametrize(
    ("text", "label_map"),
    [
        ("filename\tcm-label\nu1\tbonafide\nu2\tspoof\n", None),  # ASVspoof 5
        ("label,file\nreal,u1\nfake,u2\n", None),
        ("id;class;quality\nu1;1;a\nu2;0;b\n", "1=bonafide,0=spoof"),
        ("speaker utterance a b label\ns1 u1 1 2 real\ns2 u2 1 2 fake\n", None),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_any_file_whose_header_names_utterance_and_key_is_a_protocol(tmp_path, text, label_map, encoding):
    (tmp_path / "keys.tsv").write_bytes(text.encode(encoding))
    protocol = read_protocol(tmp_path / "keys.tsv", read_label_map(label_map))
    assert (protocol.name, list(protocol.splits)) == ("keys.tsv", ["all"])
    trials = protocol.splits["all"]
    assert trials[["utterance_id", "key", "attack"]].values.tolist() == [
        ["u1", "bonafide", "-"],
        ["u2", "spoof", "unknown"],
    ]


@pytest.mark.parametrize("layout", LINES)
def test_a_protocol_in_utf_16_is_read_as_in_utf_8(tmp_path, layout):
    expected = read(tmp_path, "trials.txt", layout)
    (tmp_path / "trials.txt").write_bytes(LINES[layout].encode("utf-16"))
    found = read_protocol(tmp_path / "trials.txt")
    assert {k: v.values.tolist() for k, v in found.splits.items()} == {
        k: v.values.tolist() for k, v in expected.splits.items()
    }


@pytest.mark.parametrize(
    ("text", "found"), [("", "is empty"), ("\n \n", "is empty"), ("a b c\n", "has 3 fields")]
)
def test_an_unknown_layout_is_answered_with_those_known(tmp_path, text, found):
    (tmp_path / "trials.txt").write_text(text)
    with pytest.raises(ValueError) as error:
        read_protocol(tmp_path / "trials.txt")
    assert f"trials.txt {found}" in str(error.value)
    assert (
        "ASVspoof 2019 LA (5), ASVspoof 2021 LA (8), ASVspoof 2021 DF (13), ASVspoof 5 (10), "
        "In-the-Wild (file,speaker,label)" in str(error.value)
    )


def test_a_malformed_line_is_named_with_its_file_and_number(tmp_path):
    (tmp_path / "trials.txt").write_text(LINES["2019"] + "LA_0080 LA_T_2041021 - A01\n")
    with pytest.raises(ValueError, match=r"trials\.txt, line 3: 'LA_0080 LA_T_2041021 - A01' is not"):
        read_protocol(tmp_path / "trials.txt")


@pytest.mark.parametrize("name", ["001", "NA", "nan", "None", '"a"', "'a", "1e5", "#a", "a,b", "ä", "-"])
def test_a_name_stays_the_text_that_it_is(tmp_path, name):
    (tmp_path / "trials.txt").write_text(f"\ufeffLA_1 {name} - A01 spoof\r\n{name} u2 - - bonafide\r\n")
    trials = read_protocol(tmp_path / "trials.txt").splits["all"]
    assert (trials.utterance_id.tolist(), trials.speaker_id.tolist()) == ([name, "u2"], ["LA_1", name])


def test_bytes_that_are_no_text_are_spelt_out(tmp_path):
    (tmp_path / "trials.txt").write_bytes(b"LA_1 u\xff1 - A01 spoof\n")
    assert read_protocol(tmp_path / "trials.txt").splits["all"].utterance_id.tolist() == ["u\\xff1"]


@pytest.mark.parametrize("number", [1, 2, 20_001])
@pytest.mark.parametrize("fields", [4, 6, 7, 8], ids="{} fields".format)
def test_a_line_with_more_or_fewer_fields_is_named_wherever_it_stands(tmp_path, number, fields):
    lines = [f"LA_1 u{i} - A01 spoof" for i in range(20_002)]
    lines[number - 1] = " ".join("abcdefgh"[:fields])
    (tmp_path / "trials.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"trials\.txt, line {number}: '{lines[number - 1]}' is not"):
        LAYOUTS["asvspoof2019-la"].read_protocol(tmp_path / "trials.txt")


def test_a_protocol_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no protocol .*nowhere\.txt"):
        read_protocol(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("name", "split", "bonafide", "spoof"),
    [
        ("ASVspoof2019.LA.cm.train.trn.txt", "train", 2_580, 22_800),
        ("ASVspoof2019.LA.cm.dev.trl.txt", "dev", 2_548, 22_296),
        ("ASVspoof2019.LA.cm.eval.trl.txt", "eval", 7_355, 63_882),
    ],
)
def test_a_whole_official_protocol_has_the_published_counts(shared_data, name, split, bonafide, spoof):
    protocol = read_protocol(shared_data / "asvspoof2019_la_protocols" / name)
    assert (protocol.name, list(protocol.splits)) == ("ASVspoof 2019 LA", [split])
    assert Counter(protocol.splits[split].key) == {"bonafide": bonafide, "spoof": spoof}
