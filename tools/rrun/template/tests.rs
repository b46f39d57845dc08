//! What Go makes of the same templates.

use serde_json::json;

use super::{Missing, Template, TemplateError};

fn object() -> serde_json::Value {
    json!({
        "Id": "abcdef",
        "State": {"Status": "running", "Running": true, "Pid": 42, "Health": null},
        "Config": {
            "Labels": {"b": "2", "a": "1"},
            "Env": ["A=1", "B=two words"],
            "Cmd": ["sh", "-c"],
            "Entrypoint": null,
            "ExposedPorts": {"80/tcp": {}},
        },
        "NetworkSettings": {
            "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "443/tcp": null},
            "IPAddress": "10.0.0.2",
        },
        "Args": ["x", "y", "z"],
        "Size": 7,
        "Empty": "",
    })
}

/// Template and output of Go 1.19 with Docker's functions, `ERR` before an error.
const GOLDEN: [(&str, &str); 113] = [
    ("{{.Id}}", "abcdef"),
    ("plain", "plain"),
    ("{{.State.Status}} : {{ .State.Pid }}", "running : 42"),
    ("{{.State}}", "{running true 42 <nil>}"),
    ("{{.Config.Labels}}", "map[a:1 b:2]"),
    ("{{.Config.Env}}", "[A=1 B=two words]"),
    ("{{.Config.Entrypoint}}", "[]"),
    (
        "{{.NetworkSettings.Ports}}",
        "map[443/tcp:[] 80/tcp:[{0.0.0.0 8080}]]",
    ),
    (
        "{{json .State}}",
        r#"{"Status":"running","Running":true,"Pid":42}"#,
    ),
    ("{{json .Config.Labels}}", r#"{"a":"1","b":"2"}"#),
    ("{{json .Config.Entrypoint}}", "null"),
    (
        "{{json .NetworkSettings}}",
        r#"{"Ports":{"443/tcp":null,"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}]},"IPAddress":"10.0.0.2"}"#,
    ),
    ("{{.Args | json}}", r#"["x","y","z"]"#),
    (r#"{{join .Args ", "}}"#, "x, y, z"),
    ("{{.Args | len}}", "3"),
    ("{{len .Config.Labels}}", "2"),
    (
        r#"{{upper .Id}}{{lower "ABC"}}{{title "hello big-world it's"}}"#,
        "ABCDEFabcHello Big-World It'S",
    ),
    (
        r#"{{pad "x" 1 2}}|{{pad "" 1 2}}|{{truncate .Id 3}}|{{truncate .Id 30}}"#,
        " x  ||abc|abcdef",
    ),
    (r#"{{split "a:b:c" ":"}}"#, "[a b c]"),
    (
        "{{range $i, $a := .Args}}{{$i}}={{$a}} {{end}}",
        "0=x 1=y 2=z ",
    ),
    (
        "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
        "a=1 b=2 ",
    ),
    ("{{range .Config.Entrypoint}}x{{else}}none{{end}}", "none"),
    ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
    ("{{.State.Health}}", "<nil>"),
    (
        "{{with .State}}{{.Pid}}{{end}}{{with .Empty}}x{{else}}e{{end}}",
        "42e",
    ),
    ("{{if .Empty}}a{{else if gt .Size 5}}b{{else}}c{{end}}", "b"),
    ("{{$x := .Id}}{{$x}}-{{$.Size}}", "abcdef-7"),
    ("{{$x := 1}}{{range .Args}}{{$x = .}}{{end}}{{$x}}", "z"),
    (
        r#"{{index .Args 1}} {{index .Config.Labels "a"}}[{{index .Config.Labels "zz"}}]"#,
        "y 1[]",
    ),
    (
        r#"{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}"#,
        "8080",
    ),
    (
        "{{range $p, $c := .NetworkSettings.Ports}}{{if $c}}{{$p}}->{{(index $c 0).HostPort}}{{end}}{{end}}",
        "80/tcp->8080",
    ),
    (
        "{{slice .Id 1 3}} {{slice .Args 1}} {{slice .Id 2}}",
        "bc [y z] cdef",
    ),
    (
        r#"{{printf "%s-%d|%5d|%-5d|%05d|%x" .Id .Size .Size .Size .Size 255}}"#,
        "abcdef-7|    7|7    |00007|ff",
    ),
    (
        r#"{{printf "%q %v %t %T %T %T" "a\"b" .Args true 1 "s" .Args}}"#,
        r#""a\"b" [x y z] true int string []string"#,
    ),
    (
        r#"{{printf "%d %s" "str" 5}}"#,
        "%!d(string=str) %!s(int=5)",
    ),
    (
        r#"{{printf "%s"}} {{printf "a" 1 "b"}} {{printf "%!"}} {{printf "%d %%" 3}}"#,
        "%!s(MISSING) a%!(EXTRA int=1, string=b) %!!(MISSING) 3 %",
    ),
    (
        r#"{{printf "%8.3f|%e|%g|%v" 3.14159 1234.5 1e21 1e-7}}"#,
        "   3.142|1.234500e+03|1e+21|1e-07",
    ),
    (
        r#"{{printf "%-10s|%10s|%.2s" "ab" "cd" "xyz"}}"#,
        "ab        |        cd|xy",
    ),
    (
        r#"{{printf "%s" .Args}} {{printf "%v" .State.Pid}} {{printf "%+d" 3}} {{printf "%c" 65}} {{printf "%U" 65}}"#,
        "[x y z] 42 +3 A U+0041",
    ),
    (
        r#"{{print 1 2 "a" "b" 3 4}} {{print "x"}} {{print nil}}"#,
        "1 2ab3 4 x <nil>",
    ),
    ("{{println \"a\" 1}}", "a 1\n"),
    (
        "{{1.5}} {{1e3}} {{0x10}} {{-3}} {{'a'}} {{1_000}} {{3.0}} {{true}}",
        "1.5 1000 16 -3 97 1000 3 true",
    ),
    (
        r#"{{eq .Id "abcdef"}} {{eq .Size 1 2 7}} {{ne 1 2}} {{lt 1 2}} {{le 2 2}} {{gt "b" "a"}} {{ge 1 2}}"#,
        "true true true true true true false",
    ),
    (
        r#"{{and 1 0}} {{and 1 2}} {{or 0 "x"}} {{or 0 ""}}| {{not 1}} {{and .Empty .Nope.X}}"#,
        "0 2 x | false ",
    ),
    (
        r#"{{eq 1 "a"}}"#,
        r#"ERR template: :1:2: executing "" at <eq 1 "a">: error calling eq: incompatible types for comparison"#,
    ),
    (
        "{{eq 1}}",
        r#"ERR template: :1:2: executing "" at <eq 1>: error calling eq: missing argument for comparison"#,
    ),
    (
        "{{lt true false}}",
        r#"ERR template: :1:2: executing "" at <lt true false>: error calling lt: invalid type for comparison"#,
    ),
    ("{{- .Id -}}   x", "abcdefx"),
    ("a   {{- .Id -}}   b", "aabcdefb"),
    ("{{/* comment */}}x{{- /* c */ -}} y", "xy"),
    (r#"{{ .Id | printf "%s-%s" "pre" }}"#, "pre-abcdef"),
    (
        r#"{{ (printf "%s" .Id) | upper | printf "<%s>" }}"#,
        "<ABCDEF>",
    ),
    (
        "{{\"quoted\"}} {{`raw\\n`}} {{\"tab\\there\\u00e9\"}}",
        "quoted raw\\n tab\there\u{e9}",
    ),
    (
        "{{html \"<a&'\\\">\"}} {{js \"it's <x>\"}} {{urlquery \"a b&c/\u{e9}\"}}",
        "&lt;a&amp;&#39;&#34;&gt; it\\'s \\u003Cx\\u003E a+b%26c%2F%C3%A9",
    ),
    ("{{len \"h\u{e9}llo\"}} {{index \"abc\" 1}}", "6 98"),
    ("{{if and .State.Running (eq .Size 7)}}yes{{end}}", "yes"),
    ("{{if not .Empty}}ne{{end}}", "ne"),
    (
        "{{.Config.ExposedPorts}} {{json .Config.ExposedPorts}}",
        r#"map[80/tcp:{}] {"80/tcp":{}}"#,
    ),
    (
        "{{range $k, $v := .Config.ExposedPorts}}{{$k}} {{end}}",
        "80/tcp ",
    ),
    (
        "{{.Nope}}",
        r#"ERR template: :1:2: executing "" at <.Nope>: can't evaluate field Nope in type fmt.Obj"#,
    ),
    (
        "{{index .Args 9}}",
        r#"ERR template: :1:2: executing "" at <index .Args 9>: error calling index: index out of range: 9"#,
    ),
    (
        "{{index .Config.Labels 1}}",
        r#"ERR template: :1:2: executing "" at <index .Config.Labels 1>: error calling index: value has type int; should be string"#,
    ),
    (
        "{{index .Size 1}}",
        r#"ERR template: :1:2: executing "" at <index .Size 1>: error calling index: can't index item of type int"#,
    ),
    (
        "{{len 3}}",
        r#"ERR template: :1:2: executing "" at <len 3>: error calling len: len of type int"#,
    ),
    (
        "{{upper .Size}}",
        r#"ERR template: :1:8: executing "" at <.Size>: wrong type for value; expected string; got int"#,
    ),
    (
        "{{upper}}",
        r#"ERR template: :1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 0"#,
    ),
    (
        "{{join .Args}}",
        r#"ERR template: :1:2: executing "" at <join>: wrong number of args for join: want 2 got 1"#,
    ),
    (
        "{{foo .Id}}",
        r#"ERR template: :1: function "foo" not defined"#,
    ),
    ("{{.Id", "ERR template: :1: unclosed action"),
    ("{{end}}", "ERR template: :1: unexpected {{end}}"),
    ("{{if .Id}}x", "ERR template: :1: unexpected EOF"),
    ("{{if}}x{{end}}", "ERR template: :1: missing value for if"),
    ("{{}}", "ERR template: :1: missing value for command"),
    ("{{$y}}", r#"ERR template: :1: undefined variable "$y""#),
    ("{{break}}", "ERR template: :1: {{break}} outside {{range}}"),
    (
        r#"{{.Id | "x"}}"#,
        "ERR template: :1: non executable command in pipeline stage 2",
    ),
    (
        r#"{{"abc}}"#,
        "ERR template: :1: unterminated quoted string",
    ),
    (
        "{{'a}}",
        "ERR template: :1: unterminated character constant",
    ),
    ("{{(.Id}}", "ERR template: :1: unclosed left paren"),
    ("{{.Id)}}", r#"ERR template: :1: unexpected ")" in command"#),
    ("{{1x}}", r#"ERR template: :1: bad number syntax: "1x""#),
    ("{{.Id}}{{else}}", "ERR template: :1: unexpected {{else}}"),
    (
        "{{ .Id !}}",
        r#"ERR template: :1: unexpected "!" in operand"#,
    ),
    (
        "{{3 4}}",
        r#"ERR template: :1:2: executing "" at <3>: can't give argument to non-function 3"#,
    ),
    (
        "{{.Id 4}}",
        r#"ERR template: :1:2: executing "" at <.Id>: Id has arguments but cannot be invoked as function"#,
    ),
    (
        "{{nil}}",
        r#"ERR template: :1:2: executing "" at <nil>: nil is not a command"#,
    ),
    (
        "{{true.X}}",
        r#"ERR template: :1: unexpected . after term "true""#,
    ),
    ("{{a.b}}", r#"ERR template: :1: function "a" not defined"#),
    ("{{:}}", "ERR template: :1: expected :="),
    (
        "{{.Id #}}",
        r##"ERR template: :1: unexpected "#" in operand"##,
    ),
    (
        "{{len}}",
        r#"ERR template: :1:2: executing "" at <len>: wrong number of args for len: want 1 got 0"#,
    ),
    (
        "{{printf 3}}",
        r#"ERR template: :1:9: executing "" at <3>: expected string; found 3"#,
    ),
    (
        "{{slice .Id 5 2}}",
        r#"ERR template: :1:2: executing "" at <slice .Id 5 2>: error calling slice: invalid slice index: 5 > 2"#,
    ),
    (
        "{{slice .Id 50}}",
        r#"ERR template: :1:2: executing "" at <slice .Id 50>: error calling slice: index out of range: 50"#,
    ),
    (
        r#"{{truncate .Id "x"}}"#,
        r#"ERR template: :1:15: executing "" at <"x">: expected integer; found "x""#,
    ),
    ("{{if true}}a{{else if false}}b{{else}}c{{end}}", "a"),
    ("{{with $x := .Id}}{{$x}}{{end}}", "abcdef"),
    ("{{if $x := .Size}}{{$x}}{{end}}", "7"),
    (
        "{{range $i, $e := .Args}}{{if $i}},{{end}}{{$e}}{{end}}",
        "x,y,z",
    ),
    (
        "{{.Id}}\n{{.Nope}}",
        "ERR template: :2:2: executing \"\" at <.Nope>: can't evaluate field Nope in type fmt.Obj",
    ),
    ("a\n{{- .Id}}\n", "aabcdef\n"),
    (r#"{{.Id | len | printf "%03d"}}"#, "006"),
    (
        "{{not}}",
        r#"ERR template: :1:2: executing "" at <not>: wrong number of args for not: want 1 got 0"#,
    ),
    ("{{index .Args}}", "[x y z]"),
    (r#"{{ index .NetworkSettings.Ports "99/tcp" }}"#, "[]"),
    (
        "{{ index .Args nil }}",
        r#"ERR template: :1:3: executing "" at <index .Args nil>: error calling index: cannot index slice/array with nil"#,
    ),
    ("{{json nil}}", "null"),
    (r#"{{json "a<b>"}}"#, r#""a<b>""#),
    (r#"{{join (split "a b" " ") "-"}}"#, "a-b"),
    (r#"{{printf "%v %v" nil .State.Health}}"#, "<nil> <nil>"),
    (r#"{{printf "%v" .Config.Labels}}"#, "map[a:1 b:2]"),
    (
        r#"{{printf "%t" 3}} {{printf "%6.2f%%" 12.345}} {{printf "%x" "hi"}} {{printf "%5t|%-7t|" true false}}"#,
        "%!t(int=3)  12.35% 6869  true|false  |",
    ),
    (r#"{{printf "%*d|%-*d|" 5 42 5 42}}"#, "   42|42   |"),
];

#[test]
fn templates_do_what_go_does() {
    let object = object();
    for (text, expected) in GOLDEN {
        let result = Template::parse(text)
            .and_then(|template| template.render(&object, Missing::Typed("fmt.Obj")));
        let found = match result {
            Ok(text) => text,
            Err(error) => {
                let text = error.to_string();
                format!(
                    "ERR {}",
                    text.trim_start_matches("template parsing error: ")
                )
            }
        };
        assert_eq!(found, expected, "input {text:?}");
    }
}

#[test]
fn a_missing_field_is_said_as_of_a_map_when_inspecting() {
    let error = |text: &str| {
        let template = Template::parse(text).unwrap();
        template
            .render(&object(), Missing::Raw)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("{{.State.Nope}}"),
        "template parsing error: template: :1:8: executing \"\" at <.State.Nope>: \
         map has no entry for key \"Nope\""
    );
    assert_eq!(
        error("{{.Id.Nope}}"),
        "template parsing error: template: :1:5: executing \"\" at <.Id.Nope>: \
         can't evaluate field Nope in type interface {}"
    );
}

#[test]
fn headers_have_titles_for_values() {
    let titles = [("ID", "CONTAINER ID"), ("Names", "NAMES")];
    let cases = [
        ("{{.ID}}\t{{.Names}}", "CONTAINER ID\tNAMES"),
        ("{{json .Names}} {{upper .ID}}", "NAMES CONTAINER ID"),
        (
            "{{.Names | lower}} {{.Label \"com.example.my-key\"}}",
            "NAMES my key",
        ),
        ("{{truncate .Names 3}}", "NAMES"),
    ];
    for (text, expected) in cases {
        let template = Template::parse(text).unwrap();
        assert_eq!(
            template.header(&titles, Missing::Raw),
            Ok(expected.to_owned()),
            "input {text:?}"
        );
    }
}

#[test]
fn methods_take_an_argument_and_are_not_shown() {
    let row = json!({"ID": "1", "Label": {"a.b": "c"}});
    let render = |text: &str| {
        let template = Template::parse(text).unwrap();
        template.render(&row, Missing::Typed("fmt.Row"))
    };
    assert_eq!(
        render("{{.Label \"a.b\"}}|{{.Label \"x\"}}"),
        Ok("c|".to_owned())
    );
    assert_eq!(render("{{json .}}"), Ok("{\"ID\":\"1\"}".to_owned()));
}

#[test]
fn nothing_overflows() {
    let deep = format!("{{{{{}1{}}}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(matches!(
        Template::parse(&deep),
        Err(TemplateError::Parse { .. })
    ));
    let ifs = "{{if 1}}".repeat(100_000);
    assert!(matches!(
        Template::parse(&ifs),
        Err(TemplateError::Parse { .. })
    ));
    let wide = "{{printf \"%99999999999d\" 1}}";
    let text = Template::parse(wide)
        .unwrap()
        .render(&json!({}), Missing::Raw);
    assert!(text.unwrap().len() <= 1_000_000);
}
