"""BibTeX of what the systems are built on, by the names that the `references:` of their YAMLs use."""

import re
from collections.abc import Iterable

from .recipe import nearest


_BIBTEX = r"""
@article{wang2020asvspoof,
  title   = {{ASVspoof} 2019: A Large-Scale Public Database of Synthesized, Converted and Replayed
             Speech},
  author  = {Wang, Xin and Yamagishi, Junichi and Todisco, Massimiliano and others},
  journal = {Computer Speech \& Language},
  volume  = {64},
  year    = {2020}
}

@inproceedings{tak2021rawnet2,
  title     = {End-to-End Anti-Spoofing with {RawNet2}},
  author    = {Tak, Hemlata and Patino, Jose and Todisco, Massimiliano and Nautsch, Andreas and
               Evans, Nicholas and Larcher, Anthony},
  booktitle = {ICASSP},
  year      = {2021}
}

@inproceedings{jung2020rawnet,
  title     = {Improved {RawNet} with Feature Map Scaling for Text-Independent Speaker Verification
               using Raw Waveforms},
  author    = {Jung, Jee-weon and Kim, Seung-bin and Shim, Hye-jin and Kim, Ju-ho and Yu, Ha-Jin},
  booktitle = {Interspeech},
  year      = {2020}
}

@inproceedings{jung2022aasist,
  title     = {{AASIST}: Audio Anti-Spoofing using Integrated Spectro-Temporal Graph Attention Networks},
  author    = {Jung, Jee-weon and Heo, Hee-Soo and Tak, Hemlata and Shim, Hye-jin and Chung, Joon Son and
               Lee, Bong-Jin and Yu, Ha-Jin and Evans, Nicholas},
  booktitle = {ICASSP},
  year      = {2022}
}

@inproceedings{tak2021graph,
  title     = {End-to-End Spectro-Temporal Graph Attention Networks for Speaker Verification Anti-Spoofing
               and Speech Deepfake Detection},
  author    = {Tak, Hemlata and Jung, Jee-weon and Patino, Jose and Kamble, Madhu and
               Todisco, Massimiliano and Evans, Nicholas},
  booktitle = {ASVspoof 2021 Workshop},
  year      = {2021}
}

@inproceedings{baevski2020wav2vec,
  title     = {wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations},
  author    = {Baevski, Alexei and Zhou, Henry and Mohamed, Abdelrahman and Auli, Michael},
  booktitle = {Advances in Neural Information Processing Systems (NeurIPS)},
  year      = {2020}
}

@inproceedings{tak2022wav2vec,
  title     = {Automatic Speaker Verification Spoofing and Deepfake Detection Using wav2vec 2.0 and
               Data Augmentation},
  author    = {Tak, Hemlata and Todisco, Massimiliano and Wang, Xin and Jung, Jee-weon and
               Yamagishi, Junichi and Evans, Nicholas},
  booktitle = {Odyssey},
  year      = {2022}
}

@inproceedings{lavrentyeva2019stc,
  title     = {{STC} Antispoofing Systems for the {ASVspoof2019} Challenge},
  author    = {Lavrentyeva, Galina and Novoselov, Sergey and Tseren, Andzhukaev and Volkova, Marina
               and Gorlanov, Artem and Kozlov, Alexandr},
  booktitle = {Interspeech},
  year      = {2019}
}

@article{wu2018light,
  title   = {A Light {CNN} for Deep Face Representation with Noisy Labels},
  author  = {Wu, Xiang and He, Ran and Sun, Zhenan and Tan, Tieniu},
  journal = {IEEE Transactions on Information Forensics and Security},
  volume  = {13},
  number  = {11},
  year    = {2018}
}

@inproceedings{todisco2019asvspoof,
  title     = {{ASVspoof} 2019: Future Horizons in Spoofed and Fake Audio Detection},
  author    = {Todisco, Massimiliano and Wang, Xin and Vestman, Ville and Sahidullah, Md and
               Delgado, Hector and Nautsch, Andreas and Yamagishi, Junichi and Evans, Nicholas and
               Kinnunen, Tomi and Lee, Kong Aik},
  booktitle = {Interspeech},
  year      = {2019}
}

@inproceedings{sahidullah2015comparison,
  title     = {A Comparison of Features for Synthetic Speech Detection},
  author    = {Sahidullah, Md and Kinnunen, Tomi and Hanil{\c{c}}i, Cemal},
  booktitle = {Interspeech},
  year      = {2015}
}

@article{brown1991calculation,
  title   = {Calculation of a Constant {Q} Spectral Transform},
  author  = {Brown, Judith C.},
  journal = {The Journal of the Acoustical Society of America},
  volume  = {89},
  number  = {1},
  year    = {1991}
}
"""
BIBTEX = {re.match(r"@\w+\{(\w+),", entry)[1]: entry for entry in _BIBTEX.strip().split("\n\n")}


def find_citations(references: Iterable[str]) -> tuple[list[str], list[str]]:
    """
    The BibTeX entries of references by name, and those references that are text of their own.

    Raises:
        ValueError: a name that is not known.
    """
    entries, texts = [], []
    for reference in references:
        if reference in BIBTEX:
            entries.append(BIBTEX[reference])
        elif re.fullmatch(r"\w+", reference):
            raise ValueError(
                f"references: {reference!r} is no entry of hub_cards/citations.py"
                f"{nearest(reference, BIBTEX)}. A reference of your own is written out as text."
            )
        else:
            texts.append(reference)
    return entries, texts
