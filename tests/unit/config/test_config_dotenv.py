"""A .env file reads as a shell would read it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatbot.config.dotenv import DotenvError, parse_dotenv

SEED = """\
# .env 파일 생성 또는 환경변수 설정
export LLM_SERVER_URL=http://localhost:8000        # LLM 서버 주소
export DATABASE_URL=chatbot.db                     # SQLite 데이터베이스 파일
export MAX_CONTEXT_MESSAGES=10                     # 컨텍스트로 사용할 최대 메시지 수
export DEFAULT_MAX_TOKENS=256                      # 기본 최대 토큰 수
export DEFAULT_TEMPERATURE=0.7                     # 기본 생성 온도
export SESSION_TIMEOUT_HOURS=24                    # 세션 만료 시간(시간)
export HOST=0.0.0.0                               # 서버 호스트
export PORT=8080                                  # 서버 포트
export DEBUG=false                                # 디버그 모드
export CORS_ORIGINS="*"                           # CORS 허용 도메인 (콤마 구분)
"""

texts = st.text(st.characters(codec="utf-8"))


def test_the_block_of_the_first_readme_loads() -> None:
    assert parse_dotenv(SEED) == {
        "LLM_SERVER_URL": "http://localhost:8000",
        "DATABASE_URL": "chatbot.db",
        "MAX_CONTEXT_MESSAGES": "10",
        "DEFAULT_MAX_TOKENS": "256",
        "DEFAULT_TEMPERATURE": "0.7",
        "SESSION_TIMEOUT_HOURS": "24",
        "HOST": "0.0.0.0",
        "PORT": "8080",
        "DEBUG": "false",
        "CORS_ORIGINS": "*",
    }


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=", ""),
        ("A= # only a comment", ""),
        ("A=#", ""),
        ("A=http://host/#fragment", "http://host/#fragment"),
        ("  A = spaced  ", "spaced"),
        ("A=two words # and a comment", "two words"),
        ("A='#literal $HOME \\n'  # comment", "#literal $HOME \\n"),
        (r'A="tab\t quote\" back\\ dollar\$ #no comment"', 'tab\t quote" back\\ dollar$ #no comment'),
        ("A=it's", "it's"),
        ("A=one\nA=two", "two"),
        ("A=windows\r\n", "windows"),
        ("\ufeffA=marked", "marked"),
        ("A=$HOME", "$HOME"),
    ],
)
def test_a_line_means_its_value(line: str, value: str) -> None:
    assert parse_dotenv(line) == {"A": value}


def test_all_faults_are_told_with_their_lines_and_without_values() -> None:
    text = 'GOOD=1\nhidden-word\n\nA=\'hidden\n# fine\nB="x" hidden\nC="\\q hidden"\n=hidden\nD="x"#glued'
    with pytest.raises(DotenvError) as caught:
        parse_dotenv(text)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [f"line {n}" for n in (2, 4, 6, 7, 8, 9)]
    assert "hidden" not in str(caught.value)
    assert "line 4: A: the quote ' is not closed" in str(caught.value)


@given(texts)
def test_any_text_survives_double_quotes(text: str) -> None:
    quoted = text
    for plain, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("$", "\\$")):
        quoted = quoted.replace(plain, escape)
    assert parse_dotenv(f'export A="{quoted}" # comment\nB=1') == {"A": text, "B": "1"}


@given(st.text(st.characters(codec="utf-8", exclude_characters="'\n")))
def test_a_text_without_single_quotes_survives_them(text: str) -> None:
    assert parse_dotenv(f"A='{text}'") == {"A": text}


@given(texts)
def test_any_file_is_read_or_refused_with_a_line_number(text: str) -> None:
    assert all(fault.startswith("line ") for fault in faults_of(text))


def faults_of(text: str) -> list[str]:
    try:
        parse_dotenv(text)
    except DotenvError as error:
        return error.faults
    return []
