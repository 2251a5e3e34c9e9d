use super::*;

fn end(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>()
        .expect("address")
        .into()
}

/// Everything works.
fn works() -> ProbeFacts {
    ProbeFacts {
        target: end("10.0.0.30:8080"),
        plain: Plain::Open { stays: true },
        own: Frame::Answered(Answer::SynAck),
        client: Some(ClientProbe {
            client: end("10.1.0.7:700"),
            answer: Some(Answer::SynAck),
            reset_later: false,
        }),
        asked_for_client: false,
        astray: None,
        client_reset: false,
        mac: None,
        channel: true,
        silent: false,
        cloud: None,
    }
}

fn with(change: impl FnOnce(&mut ProbeFacts)) -> ProbeFacts {
    let mut facts = works();
    change(&mut facts);
    facts
}

/// No answer to the client.
fn lost(change: impl FnOnce(&mut ProbeFacts)) -> ProbeFacts {
    with(|f| {
        f.client = f.client.take().map(|probe| ClientProbe {
            answer: None,
            ..probe
        });
        change(f);
    })
}

fn answer(answer: Answer, reset_later: bool) -> impl FnOnce(&mut ProbeFacts) {
    move |f| {
        f.client = f.client.take().map(|probe| ClientProbe {
            answer: Some(answer),
            reset_later,
            ..probe
        });
    }
}

#[test]
fn causes_by_what_came_back() {
    let given = MacAddr([2, 0, 0, 0, 0, 9]);
    let known = MacAddr([2, 0, 0, 0, 0, 1]);
    let ended = Plain::Open { stays: false };
    let cases = [
        (works(), None),
        (with(answer(Answer::Other, false)), None),
        (with(answer(Answer::Reset, false)), Some("port_closed")),
        (with(answer(Answer::SynAck, true)), Some("client_resets")),
        (with(|f| f.client_reset = true), Some("client_resets")),
        (lost(|f| f.client_reset = true), Some("client_resets")),
        (lost(|f| f.plain = Plain::Refused), Some("port_closed")),
        (lost(|f| f.plain = Plain::TimedOut), Some("target_silent")),
        (
            lost(|f| f.plain = Plain::Failed("no".into())),
            Some("target_unreachable"),
        ),
        (
            lost(|f| f.astray = Some("eth1".into())),
            Some("answers_come_here"),
        ),
        (
            lost(|f| f.asked_for_client = true),
            Some("clients_on_targets_link"),
        ),
        (
            lost(|f| {
                f.own = Frame::Lost;
                f.mac = Some((given, Some(known)));
            }),
            Some("wrong_mac"),
        ),
        (
            lost(|f| {
                f.own = Frame::Lost;
                f.mac = Some((known, Some(known)));
            }),
            Some("frames_lost"),
        ),
        (lost(|f| f.own = Frame::Lost), Some("frames_lost")),
        (lost(|f| f.silent = true), Some("channel_silent")),
        (
            lost(|f| f.cloud = Some("Amazon EC2".into())),
            Some("forged_source_dropped"),
        ),
        (lost(|_| ()), Some("answers_lost")),
        // The channel's own finding says it.
        (lost(|f| f.channel = false), None),
        (lost(|f| f.client = None), None),
        // The target itself ends every connection at once: the reset is no client's.
        (
            with(|f| {
                f.plain = ended;
                answer(Answer::SynAck, true)(f);
            }),
            None,
        ),
    ];
    for (facts, cause) in cases {
        assert_eq!(judge(&facts).map(|f| f.cause), cause, "{facts:?}");
    }
}
