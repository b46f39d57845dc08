//! Tests of the parts that whole layers hardly reach.

use rrun_core::Time;

use super::header::number;
use super::pax::Pax;
use super::{TarProblem, normalise};

#[test]
fn numbers_are_octal_or_base_256() {
    let bad = Err(TarProblem::Number("n"));
    let cases: [(&[u8], Result<i64, TarProblem>); 12] = [
        (b"0000644\0", Ok(0o644)),
        (b"   644 \0", Ok(0o644)),
        (b"\0\0\0\0", Ok(0)),
        (b"    ", Ok(0)),
        (b"777777777777", Ok((1 << 36) - 1)),
        (b"\x80\0\0\x01", Ok(1)),
        (b"\xff\xff\xff\xff", Ok(-1)),
        (b"\xff\xff\xff\xfe", Ok(-2)),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", Ok(i64::MAX)),
        (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", bad.clone()),
        (b"9", bad.clone()),
        (b"-1", bad),
    ];
    for (field, expected) in cases {
        assert_eq!(number(field, "n"), expected, "input {field:?}");
    }
}

type Case<'a> = (&'a [u8], Result<&'a [u8], TarProblem>);

#[test]
fn paths_lose_what_says_nothing_and_keep_what_does() {
    let cases: [Case<'_>; 9] = [
        (b"a/b", Ok(b"a/b")),
        (b"./a//b/./", Ok(b"a/b")),
        (b"///a", Ok(b"a")),
        (b"./", Ok(b"")),
        (b"/", Ok(b"")),
        (b"a/...", Ok(b"a/...")),
        (b"..", Err(TarProblem::DotDot)),
        (b"", Err(TarProblem::BadName)),
        (b"a\0b", Err(TarProblem::BadName)),
    ];
    for (raw, expected) in cases {
        assert_eq!(
            normalise(raw),
            expected.map(<[u8]>::to_vec),
            "input {raw:?}"
        );
    }
}

#[test]
fn pax_times_have_signs_and_fractions() {
    let time = |secs, nanos| Ok(Some(Time { secs, nanos }));
    let bad = Err(TarProblem::Number("mtime"));
    let cases: [(&str, Result<Option<Time>, TarProblem>); 8] = [
        ("1", time(1, 0)),
        ("1.5", time(1, 500_000_000)),
        ("1.1234567899", time(1, 123_456_789)),
        ("-1", time(-1, 0)),
        ("-0.25", time(-1, 750_000_000)),
        (".5", time(0, 500_000_000)),
        ("1.-5", bad.clone()),
        ("99999999999999999999", bad),
    ];
    for (text, expected) in cases {
        let record = format!(" mtime={text}\n");
        let len = (record.len() + 1..).find(|len| len.to_string().len() + record.len() == *len);
        let record = format!("{}{record}", len.unwrap());
        let mut pax = Pax::default();
        let result = pax.read(record.as_bytes()).map(|()| pax.mtime);
        assert_eq!(result, expected, "input {text:?}");
    }
}

#[test]
fn malformed_pax_records_are_refused() {
    let cases: [&[u8]; 9] = [
        b"x",
        b"5 a=b",
        b"4 =b\n",
        b"99 a=b\n",
        b"0 a=b\n",
        b"6 a=b\n6",
        b"18446744073709551616 a=b\n",
        b"5 ab\n",
        b"-6 a=b\n",
    ];
    for bytes in cases {
        assert!(Pax::default().read(bytes).is_err(), "input {bytes:?}");
    }
    assert!(Pax::default().read(b"6 a=b\n\0\0").is_ok());
}
