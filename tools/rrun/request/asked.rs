//! The options of a container by Docker's names, as `inspect` shows them.

use serde_json::{Map, Value, json};

use super::pairs;
use crate::args::CreateArgs;

/// What `inspect` shows under HostConfig.
pub(super) fn all(typed: &CreateArgs) -> Map<String, Value> {
    let mut asked = Map::new();
    let lists = [
        ("CapAdd", &typed.cap_add),
        ("CapDrop", &typed.cap_drop),
        ("Dns", &typed.dns),
        ("DnsOptions", &typed.dns_option),
        ("DnsSearch", &typed.dns_search),
        ("ExtraHosts", &typed.add_host),
        ("GroupAdd", &typed.group_add),
        ("SecurityOpt", &typed.security_opt),
        ("VolumesFrom", &typed.volumes_from),
    ];
    for (name, list) in lists {
        if !list.is_empty() {
            asked.insert(name.to_owned(), json!(list));
        }
    }
    let binds: Vec<&String> = typed
        .volume
        .iter()
        .filter(|word| word.contains(':'))
        .collect();
    if !binds.is_empty() {
        asked.insert("Binds".to_owned(), json!(binds));
    }
    words(typed, &mut asked);
    things(typed, &mut asked);
    asked
}

fn words(typed: &CreateArgs, asked: &mut Map<String, Value>) {
    let words = [
        ("PidMode", &typed.pid),
        ("IpcMode", &typed.ipc),
        ("UTSMode", &typed.uts),
        ("CgroupnsMode", &typed.cgroupns),
    ];
    for (name, word) in words {
        if let Some(word) = word {
            asked.insert(name.to_owned(), json!(word));
        }
    }
    if let Some(path) = &typed.cidfile {
        asked.insert("ContainerIDFile".to_owned(), json!(path));
    }
    if typed.log_driver.is_some() || !typed.log_opt.is_empty() {
        let name = typed.log_driver.as_deref().unwrap_or("json-file");
        let options = pairs(&typed.log_opt);
        asked.insert(
            "LogConfig".to_owned(),
            json!({"Type": name, "Config": options}),
        );
    }
    for (name, words) in [
        ("Annotations", &typed.annotation),
        ("Sysctls", &typed.sysctl),
    ] {
        if !words.is_empty() {
            asked.insert(name.to_owned(), json!(pairs(words)));
        }
    }
}

fn things(typed: &CreateArgs, asked: &mut Map<String, Value>) {
    if !typed.tmpfs.is_empty() {
        let split = |word: &String| {
            let (target, options) = word.split_once(':').unwrap_or((word, ""));
            (target.to_owned(), json!(options))
        };
        let tmpfs: Map<String, Value> = typed.tmpfs.iter().map(split).collect();
        asked.insert("Tmpfs".to_owned(), Value::Object(tmpfs));
    }
    if !typed.device.is_empty() {
        let device = |word: &String| {
            let mut parts = word.split(':');
            let path = parts.next().unwrap_or_default();
            let second = parts.next().filter(|part| part.starts_with('/'));
            let mode = word.rsplit(':').next().filter(|part| !part.contains('/'));
            json!({
                "PathOnHost": path,
                "PathInContainer": second.unwrap_or(path),
                "CgroupPermissions": mode.unwrap_or("rwm"),
            })
        };
        let devices: Vec<Value> = typed.device.iter().map(device).collect();
        asked.insert("Devices".to_owned(), json!(devices));
    }
    if typed.init {
        asked.insert("Init".to_owned(), json!(true));
    }
    if let Some(number) = typed.oom_score_adj {
        asked.insert("OomScoreAdj".to_owned(), json!(number));
    }
}
