"""Sentences and headings of scripts that do not end a sentence with a Latin full stop."""

from collections import Counter

import pytest

from data_prep.config import SentencesConfig
from data_prep.sentences import is_heading, split_sentences
from ponet.text_format import sentences_of

TEXTS = {
    "zh": ["今天天气很好。", "我们去公园散步！", "你想一起来吗？"],
    "ja": ["今日は天気がいいです。", "公園へ行きました！", "一緒に来ますか？"],
    "hi": ["आज मौसम अच्छा है। ", "हम बाग में गए। ", "क्या तुम आओगे?"],
    "bn": ["আজ আবহাওয়া ভালো। ", "আমরা বাগানে গেলাম। ", "তুমি কি আসবে?"],
    "ur": ["آج موسم اچھا ہے۔ ", "ہم باغ میں گئے۔ ", "کیا تم آؤ گے؟"],
    "ar": ["الطقس جميل اليوم. ", "ذهبنا إلى الحديقة. ", "هل ستأتي معنا؟"],
    "hy": ["Այսօր եղանակը լավ է։ ", "Մենք գնացինք այգի։ ", "Դու կգա՞ս։"],
    "am": ["ዛሬ አየሩ ጥሩ ነው። ", "ወደ መናፈሻ ሄድን፡፡ ", "አንተስ ትመጣለህ፧"],
    "my": ["ဒီနေ့ ရာသီဥတု ကောင်းတယ်။ ", "ပန်းခြံ သွားတယ်။ ", "မင်း လာမလား။"],
    "km": ["ថ្ងៃនេះអាកាសធាតុល្អ។ ", "យើងបានទៅសួន។ ", "តើអ្នកមកទេ៕"],
    "bo": ["གནམ་གཤིས་ཡག་པོ་འདུག། ", "གླིང་ཁར་ཕྱིན་པ་ཡིན། །", "ཁྱེད་རང་ཡོང་ངམ།"],
    "th": ["วันนี้อากาศดีมาก ", "เราไปสวนสาธารณะ ", "คุณจะมากับเราไหม"],
    "el": ["Ο καιρός είναι καλός. ", "Θα έρθεις; ", "Ναι, θα έρθω."],
    "si": ["අද කාලගුණය හොඳයි෴ ", "අපි ගියා෴ ", "ඔබ එනවාද?"],
    "ko": ["오늘 날씨가 좋다. ", "우리는 공원에 갔다. ", "같이 갈래?"],
}
TITLES = ["红楼梦", "第一章 绪论", "《红楼梦》", "歴史", "इतिहास", "تاریخ", "Պատմություն", "ታሪክ"]
TITLES += ["သမိုင်း", "ประวัติศาสตร์", "Ιστορία", "Early life"]


@pytest.mark.parametrize("language", TEXTS)
@pytest.mark.parametrize("headings", ["keep", "drop"])
def test_paragraphs_are_cut_at_the_marks_of_their_script_and_are_no_headings(
    language: str, headings: str
) -> None:
    paragraph = "".join(TEXTS[language])
    sentences = [sentence.strip() for sentence in TEXTS[language]]
    counters: Counter[str] = Counter()
    config = SentencesConfig(language=language, headings=headings)
    assert split_sentences(f"{paragraph}\n\n{paragraph}", config, counters) == 2 * sentences
    assert not +counters


@pytest.mark.parametrize("language", sorted(set(TEXTS) - {"th"}))
def test_one_sentence_with_its_final_mark_is_no_heading(language: str) -> None:
    assert not any(is_heading(sentence.strip(), 12) for sentence in TEXTS[language])


def test_titles_are_headings_and_long_lines_without_a_mark_are_none() -> None:
    assert all(is_heading(title, 12) for title in TITLES)
    assert not is_heading("中华人民共和国国务院关于加强环境保护工作的决定以及有关的通知", 12)
    assert not is_heading("ประเทศไทยเป็นประเทศในเอเชียตะวันออกเฉียงใต้มีพื้นที่กว้าง", 12)
    assert not is_heading("他说：“今天天气很好。”", 12) and not is_heading("「行きました。」", 12)


def test_a_semicolon_between_quoted_greek_words_is_no_question_mark() -> None:
    text = 'He wrote (πρωται ουσιαι; "Categories") and (λόγος; νοῦς) there.'
    assert split_sentences(text, SentencesConfig(), Counter()) == [text]
    assert split_sentences("Θα έρθεις; Ναι.", SentencesConfig(), Counter())[0] == "Θα έρθεις;"


@pytest.mark.parametrize("language", TEXTS)
def test_inference_cuts_text_like_data_preparation(language: str) -> None:
    text = "".join(TEXTS[language]) + "\n\n红楼梦"
    expected = split_sentences(text, SentencesConfig(language=language), Counter())
    assert sentences_of(text, language=language) == expected
