//! What a faulty cable did, as JSON between its process and the test.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{packet::Class, rule::Rule};

/// One direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// TCP packets that came in, by class; one packet can be of several.
    pub packets: BTreeMap<Class, u64>,
    /// How often each rule was applied, by its text.
    pub rules: Vec<(String, u64)>,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultReport {
    /// Towards the host.
    pub inward: PathReport,
    /// From the host.
    pub outward: PathReport,
}

impl PathReport {
    pub(super) fn new(rules: &[Rule]) -> Self {
        Self {
            rules: rules.iter().map(|rule| (rule.to_string(), 0)).collect(),
            ..Self::default()
        }
    }

    /// Packets of `class` that came in.
    pub fn count(&self, class: Class) -> u64 {
        self.packets.get(&class).copied().unwrap_or(0)
    }

    fn to_json(&self) -> Value {
        let packets: Map<String, Value> = self
            .packets
            .iter()
            .map(|(class, count)| (class.name().to_owned(), (*count).into()))
            .collect();
        json!({ "received": self.received, "sent": self.sent, "packets": packets, "rules": self.rules })
    }

    fn from_json(value: &Value) -> Option<Self> {
        let packet = |(name, count): (&String, &Value)| Some((name.parse().ok()?, count.as_u64()?));
        let rule = |rule: &Value| Some((rule[0].as_str()?.to_owned(), rule[1].as_u64()?));
        Some(Self {
            received: value["received"].as_u64()?,
            sent: value["sent"].as_u64()?,
            packets: value["packets"]
                .as_object()?
                .iter()
                .map(packet)
                .collect::<Option<_>>()?,
            rules: value["rules"]
                .as_array()?
                .iter()
                .map(rule)
                .collect::<Option<_>>()?,
        })
    }
}

impl FaultReport {
    /// How often `rule` was applied.
    pub fn applied(&self, rule: &Rule) -> u64 {
        let text = rule.to_string();
        let rules = self.inward.rules.iter().chain(&self.outward.rules);
        rules
            .filter(|(rule, _)| *rule == text)
            .map(|(_, count)| count)
            .sum()
    }

    /// As printed by the tool.
    pub fn to_json(&self) -> Value {
        json!({ "in": self.inward.to_json(), "out": self.outward.to_json() })
    }

    /// Reads it back.
    pub fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            inward: PathReport::from_json(&value["in"])?,
            outward: PathReport::from_json(&value["out"])?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_pipe() {
        let rule: Rule = "out/data/nth=2-2/drop".parse().unwrap();
        let mut outward = PathReport::new(&[rule]);
        outward.rules[0].1 = 5;
        outward.packets.insert(Class::SynAck, 3);
        let report = FaultReport {
            inward: PathReport::default(),
            outward,
        };
        assert_eq!(
            FaultReport::from_json(&report.to_json()),
            Some(report.clone())
        );
        assert_eq!(report.applied(&rule), 5);
        assert_eq!(report.outward.count(Class::SynAck), 3);
        assert_eq!(FaultReport::from_json(&json!({ "in": {} })), None);
    }
}
