"""Language codes that `sentences.language` takes.

sentencex takes any word, and cuts by general rules what it does not know: a misspelt code would be
a silent loss.
"""

from __future__ import annotations

import difflib

_TWO_LETTERS = """
aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de
dv dz ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id
ie ig ii ik io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu
lv mg mh mi mk ml mn mo mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt
qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn
to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
_LONGER = """
abs ace ady aeb aeb-arab aln alt ami anp arn arq ary arz ast atj avk awa azb ban ban-bali bar
bat-smg bbc bbc-latn bcc bcl be-tarask bgn bho bjn bpy bqi btm bug bxr cbk-zam cdo ceb chr ckb crh
crh-cyrl csb de-at de-ch de-formal diq dsb dtp dty egl eml en-ca en-gb es-419 es-formal ext
fiu-vro fit fil frc frp frr fur gag gan gan-hans gan-hant gcr glk gom gom-deva gor gsw guc hak haw
hif hil hrx hsb hu-formal hyw ilo inh jam jut kaa kab kbd kbp khw kiu kjp kk-arab kk-cn kk-cyrl
kk-kz kk-latn kk-tr ko-kp koi krc krl ks-arab ksh ku-arab ku-latn kum lad lbe lez lij liv lki lld
lmo lrc ltg luz lzh lzz mad mai map-bms mdf mhr min mnw mrj ms-arab mwl myv mzn nah nan nap nds
nds-nl new nia nl-informal nrm nso olo pam pap pcd pdc pdt pfl pih pms pnb pnt pt-br qug rgn rmy
roa-rup roa-tara rue rup ruq ruq-cyrl ruq-latn sah sat scn sco sdc sdh ses sgs shi shn shy
shy-latn simple skr skr-arab sli smn sr-ec sr-el srn stq sty szl szy tay tcy tet tg-cyrl tg-latn
trv tt-cyrl tt-latn tyv udm ug-arab vec vep vls vmf vot vro war wuu xal xmf yue zea zgh
zh-classical zh-cn zh-hans zh-hant zh-hk zh-min-nan zh-mo zh-my zh-sg zh-tw zh-yue
"""
CODES = frozenset(f"{_TWO_LETTERS} {_LONGER}".split())
_NAMES = {
    **{"amharic": "am", "arabic": "ar", "armenian": "hy", "bengali": "bn", "bulgarian": "bg"},
    **{"burmese": "my", "catalan": "ca", "chinese": "zh", "czech": "cs", "danish": "da"},
    **{"deutsch": "de", "dutch": "nl", "english": "en", "espanol": "es", "finnish": "fi"},
    **{"francais": "fr", "french": "fr", "german": "de", "greek": "el", "gujarati": "gu"},
    **{"hebrew": "he", "hindi": "hi", "hungarian": "hu", "italian": "it", "italiano": "it"},
    **{"japanese": "ja", "kannada": "kn", "kazakh": "kk", "khmer": "km", "korean": "ko"},
    **{"malayalam": "ml", "marathi": "mr", "norwegian": "no", "persian": "fa", "polish": "pl"},
    **{"portuguese": "pt", "punjabi": "pa", "russian": "ru", "slovak": "sk", "spanish": "es"},
    **{"swedish": "sv", "tamil": "ta", "telugu": "te", "thai": "th", "tibetan": "bo"},
    **{"turkish": "tr", "ukrainian": "uk", "urdu": "ur", "vietnamese": "vi"},
}


def check_language(code: str) -> None:
    """Refuse what is no language code.

    Raises:
        ValueError: It is none; the nearest one is named.
    """
    if code in CODES:
        return
    word = code.lower().replace("_", "-")
    known = {**_NAMES, **{name: name for name in CODES}}
    near = [word, word.split("-")[0], *difflib.get_close_matches(word, known, n=1, cutoff=0.7)]
    found = next((known[item] for item in near if item in known), "")
    hint = f" Did you mean '{found}'?" if found else ""
    raise ValueError(
        f"sentences.language is '{code}', which is no language code.{hint} Allowed: ISO 639-1 "
        "codes such as en, de, zh, and longer ones of Wikipedia such as gsw or pt-br; give en "
        "for a language that has none."
    )
