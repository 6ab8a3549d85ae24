//! The operator says how long messages are kept, of a room or of a tenant's rooms, and looks at what was said.
//!
//! The one law: **what is shown is what the shard acts by**: it is read from the primary, after the change if one was
//! made. A change says what a rule is to be, not what it is to be changed by: it may be sent again.

use std::str::FromStr;
use std::thread::sleep;
use std::time::Instant;

use serde_json::{Value, json};
use tigerchat_core::errors::ErrorCode;
use tigerchat_core::types::TenantId;
use tigerchat_core::wire::chat::{AnswerHead, Command as ChatCommand, Outcome, Query};
use tigerchat_core::wire::codec::Reader;
use tigerchat_core::wire::entry::RequestKind;
use tigerchat_core::wire::frame::Command;
use tigerchat_core::wire::retention::{FOREVER, INHERITED, Policy, Retain, Retained};

use super::erase::Session;
use super::{Operator, PATIENCE, PAUSE};
use crate::cli;
use crate::texts::{UNITS, parse_seconds};

/// By whom the change is.
const OPERATOR: &str = "operator";

/// How many messages are kept: `5000`, `forever`, or `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u32);

/// How old they may become: `90d`, `12h`, `forever`, or `default`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(pub u32);

/// Words that are no number.
fn word(text: &str) -> Option<u32> {
    match text {
        "forever" => Some(FOREVER),
        "default" => Some(INHERITED),
        _ => None,
    }
}

fn is_limit(number: &u32) -> bool {
    !matches!(*number, INHERITED | FOREVER)
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text).or_else(|| text.parse().ok().filter(is_limit)).map(Self).ok_or_else(|| {
            format!(
                "expected a number of messages from 1 to {}, `forever` or `default`, found {text:?}",
                FOREVER - 1
            )
        })
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        word(text).or_else(|| parse_seconds(text).filter(is_limit)).map(Self).ok_or_else(|| {
            format!(
                "expected an age with its unit (30s, 15m, 12h, 90d, 8w), `forever` or `default`, found {text:?}"
            )
        })
    }
}

/// An age as a person would write it.
fn age_text(seconds: u32) -> String {
    let whole = UNITS.into_iter().find(|(_, unit)| seconds > 0 && seconds.is_multiple_of(*unit));
    whole.map_or_else(|| format!("{seconds}s"), |(name, unit)| format!("{}{name}", seconds / unit))
}

pub fn set(args: &cli::RetentionSet) -> Result<(), String> {
    if args.messages.is_none() && args.age.is_none() {
        return Err("expected --messages or --age, or both, found neither".into());
    }
    let mut operator = Operator::new(&args.of.shard)?;
    let retain = Retain {
        tenant: TenantId(args.of.tenant),
        room: args.of.room.as_deref().unwrap_or(""),
        user: OPERATOR,
        messages: args.messages.map(|count| count.0),
        age_s: args.age.map(|age| age.0),
    };
    let mut commands = Vec::new();
    ChatCommand::Retain(retain).encode(&mut commands).expect("a Vec is never full");
    operator.patiently(|operator, session| {
        let reply = operator.request(session, RequestKind::Commands, &commands)?;
        let outcome = Outcome::decode(&mut Reader::new(reply.body())).map_err(|_| "an empty reply")?;
        Ok(outcome.error.map_or(Ok(()), Err))
    })?;
    show_with(&mut operator, &args.of)
}

pub fn show(args: &cli::RetentionOf) -> Result<(), String> {
    show_with(&mut Operator::new(&args.shard)?, args)
}

fn show_with(operator: &mut Operator, args: &cli::RetentionOf) -> Result<(), String> {
    let (tenant, room) = (TenantId(args.tenant), args.room.as_deref().unwrap_or(""));
    let mut query = Vec::new();
    Query::Retention { tenant, room }.encode(&mut query).expect("a Vec is never full");
    let (head, retained) = operator.patiently(|operator, session| {
        let answer = operator.exchange(session, Command::Query, &query, Command::Answer)?;
        let mut reader = Reader::new(answer.body());
        let unclear = |_| "an answer that nobody understands".to_owned();
        let head = AnswerHead::decode(&mut reader).map_err(unclear)?;
        if let Some(error) = head.error {
            return Ok(Err(error));
        }
        Ok(Ok((head, Retained::decode(&mut reader).map_err(unclear)?)))
    })?;
    if args.json {
        println!("{}", as_json(args, &head, &retained));
    } else {
        print!("{}", as_text(args, &head, &retained));
    }
    Ok(())
}

fn as_json(args: &cli::RetentionOf, head: &AnswerHead, retained: &Retained) -> Value {
    let rule = |rule: u32| match rule {
        INHERITED => Value::Null,
        FOREVER => json!("forever"),
        limit => json!(limit),
    };
    let policy = |policy: Policy| json!({"messages": rule(policy.messages), "age_s": rule(policy.age_s)});
    let mut value = json!({
        "tenant": args.tenant,
        "effective": policy(retained.effective()),
        "of_tenant": policy(retained.tenant),
        "of_shard": policy(retained.shard),
        "late_s": retained.late_s,
        "clock_s": retained.clock_s,
    });
    if let Some(room) = &args.room {
        value["room"] = json!(room);
        value["of_room"] = policy(retained.room);
        value["first"] = json!(head.first.to_string());
        value["head"] = json!(head.head.to_string());
    }
    value
}

fn as_text(args: &cli::RetentionOf, head: &AnswerHead, retained: &Retained) -> String {
    let rule = |rule: u32, limit: String| match rule {
        INHERITED => "-".to_owned(),
        FOREVER => "forever".to_owned(),
        _ => limit,
    };
    let line = |what: &str, policy: Policy| {
        let messages = rule(policy.messages, policy.messages.to_string());
        format!("{what:<10} messages {messages:<10} age {}\n", rule(policy.age_s, age_text(policy.age_s)))
    };
    let mut text = String::new();
    if args.room.is_some() {
        text += &line("room", retained.room);
    }
    text += &line("tenant", retained.tenant);
    text += &line("format", retained.shard);
    let Policy { messages, age_s } = retained.effective();
    let or_forever = |rule| if rule == INHERITED { FOREVER } else { rule };
    text += &line("in force", Policy { messages: or_forever(messages), age_s: or_forever(age_s) });
    if retained.late_s > 0 {
        text +=
            &format!("a message that is too old is served for up to {} more\n", age_text(retained.late_s));
    }
    if args.room.is_some() {
        let AnswerHead { first, head, .. } = head;
        text += &match head.saturating_add(1).saturating_sub(*first) {
            0 => format!("history is empty; the next message is {first}\n"),
            count => format!("history: {count} messages, {first} to {head}\n"),
        };
    }
    text
}

impl Operator {
    /// Does something in a session with the primary, again until it is done or refused for good.
    fn patiently<T>(
        &mut self,
        mut once: impl FnMut(&mut Self, &mut Session) -> Result<Result<T, ErrorCode>, String>,
    ) -> Result<T, String> {
        let (end, mut last) = (Instant::now() + PATIENCE, String::from("no primary answers"));
        while Instant::now() < end {
            match self.open().and_then(|mut session| once(self, &mut session)) {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) if !error.entry().temporary => return Err(error.to_string()),
                Ok(Err(error)) => last = error.to_string(),
                Err(why) => last = why,
            }
            sleep(PAUSE);
        }
        Err(format!("not done after {} s: {last}", PATIENCE.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_has_a_unit_and_is_shown_in_the_largest_that_fits() {
        for (text, seconds) in
            [("45s", 45), ("90m", 5_400), ("12h", 43_200), ("90d", 7_776_000), ("2w", 1_209_600)]
        {
            assert_eq!(text.parse(), Ok(Age(seconds)));
            assert_eq!(age_text(seconds).parse(), Ok(Age(seconds)));
        }
        assert_eq!((age_text(5_400), age_text(1_209_600)), ("90m".into(), "2w".into()));
        assert_eq!(("forever".parse(), "default".parse()), (Ok(Age(FOREVER)), Ok(Age(INHERITED))));
        for wrong in ["", "12", "d", "-1d", "1y", "0s", "99999999w", "1d ", "4294967295s"] {
            assert!(wrong.parse::<Age>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_count_is_a_number_of_messages() {
        assert_eq!(("1".parse(), "5000".parse()), (Ok(Count(1)), Ok(Count(5_000))));
        assert_eq!(("forever".parse(), "default".parse()), (Ok(Count(FOREVER)), Ok(Count(INHERITED))));
        for wrong in ["", "0", "-1", "4294967295", "many"] {
            assert!(wrong.parse::<Count>().is_err(), "{wrong:?}");
        }
    }
}
