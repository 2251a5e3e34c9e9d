use super::*;

fn refused(expression: &str) -> String {
    let error = Filter::compile(expression)
        .expect_err(expression)
        .to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn libpcaps_reason_comes_with_the_expression() {
    assert_eq!(
        refused("tcp prot 80"),
        "filter 'tcp prot 80': can't parse filter expression: syntax error"
    );
    for (expression, reason) in [
        ("host 10.0.0.256", "10.0.0.256"),
        ("port 99999", "99999"),
        ("net 10.0.0.1/8", "non-network bits set"),
        ("tcp and udp", "rejects all packets"),
        ("ip broadcast", "netmask"),
        ("tcp[13", "syntax error"),
    ] {
        let error = refused(expression);
        assert!(
            error.contains(expression) && error.contains(reason),
            "{error}"
        );
    }
    assert!(refused("tcp\0").contains("zero byte"));
}

#[test]
fn what_the_kernel_cannot_do_is_said() {
    for (expression, reason) in [
        ("inbound", "not in the packet"),
        ("ip6 protochain 6", "loop"),
    ] {
        let error = refused(expression);
        assert!(
            error.contains(expression) && error.contains(reason),
            "{error}"
        );
    }
}

#[test]
fn nothing_is_no_filter() {
    for text in ["", "  \n\t "] {
        assert!(refused(text).starts_with("filter is empty, expected"));
    }
}

#[test]
fn long_expressions_are_quoted_in_part() {
    let hosts: Vec<String> = (0..100).map(|i| format!("host 10.0.0.{i}")).collect();
    let error = refused(&format!("{} or prot 1", hosts.join(" or ")));
    assert!(
        error.contains("...") && error.len() < 400,
        "{} bytes: {error}",
        error.len()
    );
}

#[test]
fn what_would_take_long_is_refused_at_once() {
    let error = refused(&"tcp or ".repeat(20_000));
    assert!(
        error.contains("has 139999 bytes, expected at most 131072") && error.len() < 400,
        "{error}"
    );
}

#[test]
fn files_have_comments_and_lines() {
    let path = std::env::temp_dir().join(format!("filter-file-{}", std::process::id()));
    let put = |text: &[u8]| std::fs::write(&path, text).unwrap();
    put(b"# clients of the office\nsrc net 10.0.0.0/8 # all of them\n  and\n tcp\n");
    let filter = Filter::from_file(&path).unwrap();
    assert_eq!(filter.expression(), "src net 10.0.0.0/8 and tcp");
    for (text, reason) in [
        (&b"# nothing\n"[..], "empty"),
        (b"host", "syntax error"),
        (b"\xff\xfe", "UTF-8"),
        (&vec![b' '; 1 << 21][..], "more than 1 MiB"),
    ] {
        put(text);
        let error = Filter::from_file(&path).unwrap_err().to_string();
        let name = path.display().to_string();
        assert!(error.contains(&name) && error.contains(reason), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = Filter::from_file(&path).unwrap_err().to_string();
    assert!(error.starts_with("cannot read filter file"), "{error}");
}

#[test]
fn the_interpreter_judges_frames() {
    let filter = Filter::compile("ether proto 0x88b5").unwrap();
    let mut frame = [0; 60];
    assert!(!filter.matches(&frame));
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert!(filter.matches(&frame));
    assert!(!filter.matches(&frame[..13]));
}
