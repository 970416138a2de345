"""List texts of many sorts beyond English prose, for int8's calibration and for the gate.

Each group has two sets that share no text. The scales of an int8 graph are measured on the first
set and judged on the second, so no figure comes from a text that a setting was chosen on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Texts of one sort: `measured` for calibration, `judged` for the gate."""

    name: str
    measured: tuple[str, ...]
    judged: tuple[str, ...]


GROUPS = (
    Group(
        "cyrillic",
        (
            "Поезд отправляется в семь часов утра с третьего пути.",
            "Учёные измерили температуру океана на глубине двух километров.",
        ),
        (
            "Библиотека закрыта по понедельникам, кроме летних каникул.",
            "Уряд ухвалив новий бюджет на наступний рік після довгої дискусії.",
            "как испечь хлеб",
        ),
    ),
    Group(
        "greek",
        (
            "Το τρένο φεύγει στις επτά το πρωί από την τρίτη αποβάθρα.",
            "Η θάλασσα ήταν ήρεμη όλη τη νύχτα.",
        ),
        (
            "Η βιβλιοθήκη είναι κλειστή κάθε Δευτέρα εκτός από τις διακοπές.",
            "πώς φτιάχνεται το ψωμί",
        ),
    ),
    Group(
        "arabic",
        (
            "يغادر القطار في السابعة صباحا من الرصيف الثالث.",
            "ارتفعت أسعار الفائدة للمرة الثالثة هذا العام.",
        ),
        (
            "المكتبة مغلقة يوم الاثنين إلا في أيام العطلة.",
            "کتاب‌خانه روزهای دوشنبه بسته است.",
            "كيف يصنع الخبز",
        ),
    ),
    Group(
        "hebrew",
        ("הרכבת יוצאת בשבע בבוקר מרציף שלוש.", "מחירי הלחם עלו השנה."),
        ("הספרייה סגורה בימי שני, מלבד בחופשה.", "איך אופים לחם"),
    ),
    Group(
        "devanagari",
        (
            "रेलगाड़ी सुबह सात बजे तीसरे प्लेटफ़ॉर्म से चलती है।",
            "इस साल ब्याज दरें तीसरी बार बढ़ीं।",
        ),
        ("पुस्तकालय सोमवार को बंद रहता है।", "रोटी कैसे बनाते हैं", "नदीला पूर आला आणि दोन पूल बंद झाले."),
    ),
    Group(
        "thai",
        ("รถไฟออกเวลาเจ็ดโมงเช้าจากชานชาลาที่สาม", "ปีนี้อัตราดอกเบี้ยขึ้นเป็นครั้งที่สาม"),
        ("ห้องสมุดปิดทุกวันจันทร์ยกเว้นช่วงวันหยุด", "วิธีทำขนมปัง"),
    ),
    Group(
        "chinese",
        ("火车早上七点从三号站台出发。", "科学家测量了两千米深处的海水温度。"),
        (
            "图书馆每逢星期一闭馆，假期除外。",
            "如何烤面包",
            "中央銀行今年第三次提高了利率，股市因此下跌。",
        ),
    ),
    Group(
        "japanese",
        ("電車は午前七時に三番線から出発します。", "今年三度目の利上げがありました。"),
        (
            "図書館は祝日を除いて月曜日に休館します。",
            "パンの焼き方",
            "カタカナとひらがなを混ぜて書く。",
        ),
    ),
    Group(
        "korean",
        ("기차는 아침 일곱 시에 삼 번 승강장에서 출발합니다.", "올해 금리가 세 번째로 올랐다."),
        ("도서관은 휴일을 제외하고 월요일에 문을 닫습니다.", "빵 굽는 방법"),
    ),
    Group(
        "georgian",
        ("მატარებელი დილის შვიდ საათზე გადის მესამე ბაქნიდან.", "წელს ფასები გაიზარდა."),
        ("ბიბლიოთეკა ორშაბათს დაკეტილია.", "როგორ ცხვება პური"),
    ),
    Group("empty", ("", "\n\n"), ("", " ", "\t\n ")),
    Group("one character", ("b", "8", "!", "д", "本"), ("a", "7", "?", "é", "中", "x", "I")),
    Group(
        "repeats",
        ("word " * 250, "?" * 400, "click here " * 50, "1 " * 300, "ha" * 200),
        (
            "the " * 300,
            "!" * 500,
            "buy now " * 60,
            "0 " * 200,
            "spam spam spam",
            "ab" * 300,
            "-" * 80,
        ),
    ),
    Group("long word", ("q" * 3000, "xyzzy" * 500), ("a" * 3000, "lorem" * 600, "zx" * 1500)),
    Group(
        "special tokens",
        (
            "[SEP] [CLS] [SEP]",
            "[MASK] is the capital of France [SEP] [PAD] [PAD]",
            "</s> <s> <mask> <pad>",
            "<|im_start|>user hello <|im_end|>",
        ),
        (
            "[CLS] [SEP] [MASK] [PAD] [UNK]",
            "[MASK] [MASK] [MASK]",
            "<s> </s> <pad> <mask> <unk>",
            "a [SEP] b [SEP] c",
            "<|endoftext|><|im_start|>system",
        ),
    ),
    Group(
        "code",
        (
            "for (int i = 0; i < n; ++i) { total += values[i] * weights[i]; }",
            "SELECT name, COUNT(*) FROM orders WHERE total > 100 GROUP BY name HAVING COUNT(*) > 3",
            '{"id": 17, "tags": ["a", "b"], "nested": {"ok": true, "ratio": 0.25}}',
        ),
        (
            "import numpy as np\nx = np.zeros((3, 4), dtype=np.float32)\nprint(x.T @ x)",
            "fn main() -> Result<(), Box<dyn Error>> { let v: Vec<u8> = vec![0; 16]; Ok(()) }",
            "<div class='row'><a href=\"/docs?page=2#top\">next &raquo;</a></div>",
            "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+)@(?:[a-z0-9-]+\\.)+[a-z]{2,}$",
        ),
    ),
    Group(
        "emoji",
        ("🚂⏰", "great trip 🎉🎉🎉 see you 👋🏽", "❤️ 🧡 💛 💚"),
        ("😀😃😄", "Let's bake 🍞🥖 today! 👩‍🍳", "🇫🇷 🇯🇵 🇧🇷", "🤷"),
    ),
    Group(
        "numbers",
        ("4.20 17 88 1,024 3e-7", "2023-11-05T07:45:00Z", "+49 221 555 0199"),
        (
            "3.14159 2.71828 1.41421",
            "1999-12-31 23:59:59",
            "SKU 00417-B / 12 x 0.75 l",
            "0 1 1 2 3 5 8 13 21",
        ),
    ),
)


def measured() -> list[str]:
    """The texts of all groups that the scales of int8 are measured on."""
    return [text for group in GROUPS for text in group.measured]


def judged() -> list[tuple[str, str]]:
    """The texts of all groups that a gate judges, each after its group's name."""
    return [(group.name, text) for group in GROUPS for text in group.judged]
