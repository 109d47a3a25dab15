use super::*;
use crate::kms::KeyArn;
use crate::kms::policy::{Audience, Keys, Roles, generate};

const ROOT: &str = "arn:aws:iam::111122223333:root";

fn role(name: &str) -> String {
    format!("arn:aws:iam::111122223333:role/{name}")
}

fn volume() -> VolumeId {
    VolumeId([7; 16])
}

fn generated() -> String {
    let master = KeyArn("arn:aws:kms:eu-west-1:111122223333:key/x".to_owned());
    let roles = Roles {
        administrators: vec![role("admin")],
        mount: vec![role("mount")],
        rewrap: vec![role("rewrap")],
        audit: vec![role("audit")],
        break_glass: vec![role("break-glass")],
    };
    generate(Audience::Key, &Keys { master, replica: None }, volume(), &roles).to_string()
}

fn rules(policy: &str, at_least: Severity) -> Vec<&'static str> {
    let found = lint(&Policy::parse(policy).expect("a policy"), None, Some(volume()));
    found.iter().filter(|f| f.severity >= at_least).map(|f| f.rule).collect()
}

fn allow(principal: &str, actions: &str) -> String {
    format!(
        r#"{{"Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{principal}"}},"Action":{actions},"Resource":"*"}}]}}"#
    )
}

#[test]
fn what_is_generated_is_clean_and_names_the_break_glass_role() {
    let text = generated();
    assert_eq!(rules(&text, Severity::Warning), Vec::<&str>::new());
    let found = lint(&Policy::parse(&text).expect("a policy"), None, Some(volume()));
    for rule in ["can-disable", "can-delete", "can-move-alias"] {
        let one = found.iter().find(|f| f.rule == rule).expect("told");
        assert!(one.message.ends_with(&role("break-glass")), "{}", one.message);
    }
    let put = found.iter().find(|f| f.rule == "can-set-policy").expect("told");
    assert!(put.message.ends_with(ROOT), "{}", put.message);
}

/// Each guard of the generated policy is missed when it is taken out.
#[test]
fn no_guard_can_be_taken_out_unseen() {
    let whole: serde_json::Value = serde_json::from_str(&generated()).expect("JSON");
    let without = |sid: &str| {
        let mut policy = whole.clone();
        let all = policy["Statement"].as_array_mut().expect("a list");
        let before = all.len();
        all.retain(|s| s["Sid"] != sid);
        assert_eq!(all.len(), before - 1, "{sid}");
        policy.to_string()
    };
    let warned = |sid| rules(&without(sid), Severity::Warning);
    assert_eq!(warned("NoShortDeletion"), ["short-deletion"]);
    assert_eq!(warned("RecoverThePolicy"), ["no-recovery"]);
    let mut open = whole.clone();
    for statement in open["Statement"].as_array_mut().expect("a list") {
        if statement["Sid"] == "Mount" {
            statement.as_object_mut().expect("an object").remove("Condition");
        }
    }
    assert_eq!(rules(&open.to_string(), Severity::Warning), ["no-context"]);
    let other = generated().replace(&volume().to_string(), &VolumeId([8; 16]).to_string());
    assert_eq!(rules(&other, Severity::Warning), ["other-volume", "other-volume"]);
}

#[test]
fn the_default_policy_is_dangerous() {
    let found = rules(&allow(ROOT, r#""kms:*""#), Severity::Warning);
    for rule in ["account-wide", "user-administers", "wildcard-action", "no-context", "can-grant"] {
        assert!(found.contains(&rule), "{rule}: {found:?}");
    }
    // An account's number stands for its root.
    assert!(
        rules(&allow("111122223333", r#""kms:*""#), Severity::Danger).contains(&"account-wide")
    );
}

/// The Denies of the generated policy hold the default statement down, as far as they go.
#[test]
fn a_deny_counts_unless_it_exempts() {
    let mut policy: serde_json::Value = serde_json::from_str(&generated()).expect("JSON");
    let broad: serde_json::Value = serde_json::from_str(&allow(ROOT, r#""kms:*""#)).expect("JSON");
    let all = policy["Statement"].as_array_mut().expect("a list");
    all.push(broad["Statement"][0].clone());
    let found = rules(&policy.to_string(), Severity::Danger);
    assert_eq!(found, Vec::<&str>::new());
    let exempt = generated()
        .replace("OnlyBreakGlassEndsAccess\"", "X\"")
        .replace("ArnNotEquals", "ArnEquals");
    assert!(rules(&exempt, Severity::Note).contains(&"can-disable"));
}

#[test]
fn everyone_exceptions_and_users_who_administer_are_found() {
    let danger = |text: &str| rules(text, Severity::Danger);
    assert!(danger(&allow("*", r#""kms:Decrypt""#)).contains(&"everyone"));
    let not = allow(&role("a"), r#""kms:Decrypt""#).replace("\"Action\"", "\"NotAction\"");
    assert!(danger(&not).contains(&"allow-by-exception"));
    let both = allow(&role("a"), r#"["kms:Decrypt","kms:DisableKey"]"#);
    assert_eq!(danger(&both), ["user-administers"]);
    // Granting oneself Decrypt is using.
    assert!(
        rules(&allow(&role("a"), r#""kms:CreateGrant""#), Severity::Warning).contains(&"can-grant")
    );
}

/// A disabled primary leaves its replicas as they are.
#[test]
fn a_multi_region_key_is_named() {
    let policy = Policy::parse(&generated()).expect("a policy");
    let of = |key: &str| {
        let key = KeyArn(format!("arn:aws:kms:eu-west-1:111122223333:key/{key}"));
        lint(&policy, Some(&key), Some(volume())).iter().any(|f| f.rule == "multi-region")
    };
    assert!(of("mrk-0123456789abcdef0123456789abcdef"));
    assert!(!of("01234567-89ab-cdef-0123-456789abcdef"));
}

/// The role's own policy leaves no other key to it, whatever that key's policy says; and the
/// guard over aliases is missed when it is taken out.
#[test]
fn a_role_is_held_to_the_key_of_its_volume() {
    let key = |region: &str| KeyArn(format!("arn:aws:kms:{region}:111122223333:key/mrk-x"));
    let (master, replica) = (key("eu-west-1"), key("eu-central-1"));
    let both = serde_json::json!([master.0, replica.0]);
    let one = Keys { master: master.clone(), replica: None };
    let two = Keys { master: master.clone(), replica: Some(replica) };
    let wanted = [(&one, &serde_json::json!(master.0)), (&two, &both)];
    let audiences = [Audience::Mount, Audience::Rewrap];
    for (audience, (keys, named)) in audiences.into_iter().flat_map(|a| wanted.map(|w| (a, w))) {
        let policy = generate(audience, keys, volume(), &Roles::default());
        let mut denies = policy["Statement"].as_array().expect("a list").iter();
        let deny = denies.find(|s| s["Effect"] == "Deny").expect("a Deny");
        assert_eq!((&deny["NotResource"], &policy["Statement"][0]["Resource"]), (named, named));
        for action in ["kms:GenerateDataKey", "kms:Decrypt", "kms:ReEncryptTo"] {
            assert!(deny["Action"].as_array().expect("a list").iter().any(|a| a == action));
        }
    }
    let open = generated().replace("kms:DescribeKey", "kms:UpdateAlias");
    let open =
        open.replace("OnlyBreakGlassMovesAliases\"", "X\"").replace("ArnNotEquals", "ArnEquals");
    assert!(rules(&open, Severity::Warning).contains(&"can-move-alias"));
}
