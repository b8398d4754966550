"""Personal data: of every kind some that is masked and near misses that are not, in linear time."""

from __future__ import annotations

import time

import pytest

from qwenkit.data.filters.pii import account, card, luhn, resident, scrub

PEM = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mail me: jo.smith+x@mail.example.co.uk.", "mail me: <email>."),
        ("请写信给wang@example.cn吧", "请写信给<email>吧"),
        ("call +44 20 7946 0958 or (212) 555-0123", "call <phone> or <phone>"),
        ("手机13812345678，电话010-62345678。", "手机<phone>，电话<phone>。"),
        ("+86 138 1234 5678, +8613812345678, (+86) 138-1234-5678", "<phone>, <phone>, <phone>"),
        ("0086-10-62345678 and +86 (0)10 6234 5678", "<phone> and <phone>"),
        ("server 208.67.222.222 is up", "server <ip> is up"),
        ("at 2001:4860:4860::8888, or 2a00:1450:4001:81b:0:0:0:200e.", "at <ip>, or <ip>."),
        ("card 4111 1111 1111 1111 expired", "card <card> expired"),
        ("账号6222 0212 0123 4567 892。", "账号<card>。"),
        ("IBAN DE89 3704 0044 0532 0130 00 BIC", "IBAN <account> BIC"),
        ("to GB29NWBK60161331926819 AND FR1420041010050500013M02606.", "to <account> AND <account>."),
        ("id 11010519491231002X", "id <identity>"),
        ("SSN 219-09-9998", "SSN <identity>"),
        (f"AKIAIOSFODNN7EXAMPLE ghp_{'a1' * 18} {PEM} sk-ly", "<key> <key> <key> sk-ly"),
        (f"xoxb-{'1234567890-' * 2}AbCdEf and sk_live_{'a1' * 12}", "<key> and <key>"),
        (f"Bearer {TOKEN}; hf_{'aB' * 17}; npm_{'a1' * 18}; glpat-{'x-' * 10}", "Bearer <key>; <key>; <key>; <key>"),
    ],
)
def test_personal_data_is_masked(text: str, masked: str) -> None:
    assert scrub(text)[0] == masked


@pytest.mark.parametrize(
    "text",
    [
        "@user said a@b and a @ b.org",
        "version 1.2.3.4 of the program, section 8.2.4.44, 192.168.0.1 at home, 224.0.1.129 for all, 300.1.1.1",
        "at 2001:30:45, 12:30:45, 2001:db8::1, fe80::1, ::1, std::vector, 3f2a::g, 00:1a:2b:3c:4d:5e",
        "card 4111 1111 1111 1112, 9780306406157, 1718000000000, 0x4111111111111111",
        "DE89 3704 0044 0532 0130 01, GB29NWBK6016133192681, XX89370400440532013000, DE893704004405320130001",
        "no 110105194912310021, no 11010519491331002X, no 210105194900000020",
        "000-12-3456, 666-12-3456, 912-12-3456, 123-00-4567, 123-45-0000, 2023-11-04, 123-45-67890",
        "in 1806 and 2023-11-04, pages 123-456, 3.14159265358979",
        "12345 + 67890 = 80235, +9.869604, +1.12345679, +000000120, 1284480000*x, 13340783196*x, tail -n +123457",
        "+86 12 and 86 138, 2138123456789",
        "sk-learn, sk_live_short, xoxo-hugs-and-kisses, eyJ.eyJ.x, hf_hub_download_of_files, AKIAlower",
        "-----BEGIN PUBLIC KEY-----\nMIIEpAIBAAKCAQEA\n-----END PUBLIC KEY-----",
        "between -----BEGIN PRIVATE KEY----- and -----END PRIVATE KEY-----",
    ],
)
def test_near_misses_stay(text: str) -> None:
    assert scrub(text) == (text, {})


def test_counts() -> None:
    text, counts = scrub("a@b.org c@d.org, 219-09-9998 and 11010519491231002X")
    assert counts == {"email": 2, "identity": 2} and scrub(text) == (text, {})


def test_checks() -> None:
    assert luhn("4111111111111111") and not luhn("4111111111111112")
    assert card("4111 1111 1111 1111") and not card("1111 1111 1111 1117")
    assert account("GB82 WEST 1234 5698 7654 32") and not account("GB82 WEST 1234 5698 7654 33")
    assert resident("11010519491231002X") and not resident("110105194912310020")


@pytest.mark.parametrize(
    "unit",
    [
        "x.", "a@", "a@b.", "a.b@c-", "1-", "1 ", "1.", "+1 ", "+86 1", "0086-10-", "(0", "123-45-", "1.1.1.", "4111 ",
        "2001:", "2001:a", "2001::", ":", "DE", "DE89 ", "DE89 3704 ", "GB29NWBK", "11010519491231002", "eyJ",
        "eyJaaaaaaaaaa.", "eyJaaaaaaaaaaaa.eyJ", "-----BEGIN PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----a-",
        "-----BEGIN A ", "-", "sk-", "xoxb-", "ghp_", "AKIA", "sk_live_a",
    ],
)  # fmt: skip
def test_a_megabyte_made_to_be_slow_ends_in_seconds(unit: str) -> None:
    start = time.process_time()
    scrub(unit * (1_000_000 // len(unit)))
    scrub((unit * 300 + " ") * (1_000_000 // (300 * len(unit))))
    assert time.process_time() - start < 8


@pytest.mark.parametrize("text", ["![logo](logo@2x.png)", "import vue@3.2.js", "git clone git@host.org:team/code.git"])
def test_files_and_repositories_are_no_addresses(text: str) -> None:
    assert scrub(text) == (text, {})


CALLED = [
    "Tél. : 06 12 34 56 78", "appelez le 01.23.45.67.89.", "Telefon 030 12345678", "Tel.: 0711/1234567",
    "089 12 34 56 78 anrufen", "Handy 0171 1234567", "ring 020 7946 0958", "07911 123456", "03-1234-5678",
    "090-1234-5678", "010-1234-5678", "(11) 91234-5678", "(02) 9876 5432", "8 (495) 123-45-67", "+7 (495) 123-45-67",
    "+91 98765 43210", "+49 30 12345678", "+49 (0)30 123456", "Phone: 98765 43210", "tel 612 34 56 78",
    "josé.garcía@example.es", "müller@exämple.de", "o'brien@example.ie", "иван@почта.рф", "call me at 13812345678",
    "张三 13812345678", "手机:13812345678", "mailto:a@b.org", "joe@example.com(work)", "请写信给wang@example.cn吧",
    "212-555-0123", "JOE@EXAMPLE.COM", "x@y.museum", "Tel 0039 06 1234 5678", "0800 123 4567",
    "whatsapp +55 11 91234-5678", "fax 022 123 45 67", "ada@uni-köln.de, bob@xn--exmple-cua.com",
]  # fmt: skip
NOT_CALLED = [
    "scores = q@k.transpose(-2, -1)", "y = x@w.T + b@c.mT", "h = self.q@self.k.weight", "out = a@b.to(device)",
    "x = W@v.view(1, -1)", "@app.route('/x')", "@pytest.mark.skip", "git clone git@github.com:org/repo.git",
    "ssh://git@github.com/org/repo.git", "pkg@1.2.3-beta.rc", "react@18.2.0", "actions/checkout@v4.1.1",
    "order 402-118-2260, latencies 250 300 1000", "order number 402-555-2260", "Population\t13812345678",
    "ISBN 978-0-306-40615-7", "ISBN 0-306-40615-2", "doi:10.1000/182-345-6789", "01.02.2023 12:30",
    "2023-01-02 10:20:30", "01 02 03 04 05", "v1.2.3.104", "version 4.18.0.205", "kernel 5.4.0.150", "1 234 567 890",
    "12 345 678 901", "人口13812345678", "订单号13812345678", "0.123456789", "id 0123456789", "00 01 02 03 04 05 06 07",
    "05/12/2023 and 06/12/2023", "call 100 200 300", "Part No. 0345-123456", "3.14.159.265", "x[0]@y[1].shape",
    "loss@epoch.mean", "a @ b.org", "pages 0123-0456", "03/04/2021 10:11:12", "K@V.contiguous", "A@B.inverse()@C.dot",
]  # fmt: skip


@pytest.mark.parametrize("text", CALLED)
def test_numbers_and_addresses_of_other_countries_are_masked(text: str) -> None:
    found, counts = scrub(text)
    assert counts.total() == text.count(",") + 1 and not any(char.isdigit() for char in found)


@pytest.mark.parametrize("text", NOT_CALLED)
def test_code_and_other_numbers_stay(text: str) -> None:
    assert scrub(text) == (text, {})
