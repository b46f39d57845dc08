//! Values as Go would hold them: structs in order, maps sorted, nil of several kinds.
//!
//! `inspect` and the lists make JSON. Docker's templates work on typed structs, so what is a map
//! there and what is a slice is told here by the names of fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Fields whose value is a map in Docker's types.
const MAPS: [&str; 21] = [
    "Annotations",
    "Aux",
    "Containers",
    "Data",
    "DriverOpts",
    "ExposedPorts",
    "ExtHeaders",
    "Labels",
    "Networks",
    "Options",
    "PortBindings",
    "Ports",
    "SecondaryIPs",
    "Storage",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "Volumes",
    "Plugins",
    "Attributes",
    "Runtimes",
];

/// Fields that are slices in Docker's types, so that null is an empty one.
const SLICES: [&str; 38] = [
    "Aliases",
    "Args",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DNSNames",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Layers",
    "Links",
    "Log",
    "MaskedPaths",
    "Mounts",
    "OnBuild",
    "ReadonlyPaths",
    "RepoDigests",
    "RepoTags",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];

/// Pointers that Docker's JSON leaves out when they are nil, while templates can ask for them.
const OMITTED: [&str; 2] = ["Health", "Healthcheck"];

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    /// Nothing at all: a map's missing entry.
    Missing,
    /// A nil pointer.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// `None` is the nil slice.
    List(Option<Vec<Data>>),
    /// `None` is the nil map.
    Map(Option<BTreeMap<String, Data>>),
    Struct(Vec<(String, Data)>),
    /// A method that looks its argument up: `.Label "key"`.
    Lookup(BTreeMap<String, String>),
    /// The same in a table's header: the last word of the argument.
    LookupTitle,
}

impl Data {
    /// A typed value from the JSON that `inspect` and the lists show.
    pub(crate) fn typed(value: &Value) -> Self {
        Self::named(value, "", "")
    }

    fn named(value: &Value, name: &str, parent: &str) -> Self {
        let is_map = MAPS.contains(&name) || (parent, name) == ("LogConfig", "Config");
        match value {
            Value::Null if parent == "Ports" || SLICES.contains(&name) => Self::List(None),
            Value::Null if is_map => Self::Map(None),
            Value::Null => Self::Nil,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Float(number.as_f64().unwrap_or_default()),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(list) => Self::List(Some(
                list.iter().map(|one| Self::named(one, "", "")).collect(),
            )),
            Value::Object(map) if name == "Label" => Self::Lookup(
                map.iter()
                    .map(|(key, value)| (key.clone(), value.as_str().unwrap_or("").to_owned()))
                    .collect(),
            ),
            Value::Object(map) if is_map => Self::Map(Some(
                map.iter()
                    .map(|(key, value)| (key.clone(), Self::named(value, "", name)))
                    .collect(),
            )),
            Value::Object(map) => Self::Struct(
                map.iter()
                    .map(|(key, value)| (key.clone(), Self::named(value, key, name)))
                    .collect(),
            ),
        }
    }

    /// The JSON of a value, as Go's encoder makes it.
    pub(crate) fn json(&self) -> Value {
        match self {
            Self::Missing
            | Self::Nil
            | Self::List(None)
            | Self::Map(None)
            | Self::Lookup(_)
            | Self::LookupTitle => Value::Null,
            Self::Bool(flag) => Value::Bool(*flag),
            Self::Int(number) => Value::from(*number),
            Self::Float(number) => Value::from(*number),
            Self::Text(text) => Value::from(text.as_str()),
            Self::List(Some(list)) => Value::Array(list.iter().map(Self::json).collect()),
            Self::Map(Some(map)) => Value::Object(
                map.iter()
                    .map(|(key, value)| (key.clone(), value.json()))
                    .collect(),
            ),
            Self::Struct(fields) => {
                let mut object = Map::new();
                for (name, value) in fields {
                    let hidden = match value {
                        Self::Lookup(_) | Self::LookupTitle => true,
                        Self::Nil => OMITTED.contains(&name.as_str()),
                        _ => false,
                    };
                    if !hidden {
                        object.insert(name.clone(), value.json());
                    }
                }
                Value::Object(object)
            }
        }
    }

    /// What `if` takes for true: anything but zero, empty and nil.
    pub(super) fn truth(&self) -> bool {
        match self {
            Self::Missing | Self::Nil => false,
            Self::Bool(flag) => *flag,
            Self::Int(number) => *number != 0,
            Self::Float(number) => *number != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => list.as_ref().is_some_and(|list| !list.is_empty()),
            Self::Map(map) => map.as_ref().is_some_and(|map| !map.is_empty()),
            Self::Struct(_) | Self::Lookup(_) | Self::LookupTitle => true,
        }
    }

    /// The name of the type, for messages.
    pub(super) fn type_name(&self) -> String {
        let of = |one: Option<&Self>| one.map_or_else(|| "string".to_owned(), Self::type_name);
        match self {
            Self::Missing | Self::Nil => "nil".to_owned(),
            Self::Bool(_) => "bool".to_owned(),
            Self::Int(_) => "int".to_owned(),
            Self::Float(_) => "float64".to_owned(),
            Self::Text(_) => "string".to_owned(),
            Self::List(list) => format!("[]{}", of(list.as_ref().and_then(|list| list.first()))),
            Self::Map(map) => {
                let first = map.as_ref().and_then(|map| map.values().next());
                format!("map[string]{}", of(first))
            }
            Self::Struct(_) => "struct".to_owned(),
            Self::Lookup(_) | Self::LookupTitle => "func(string) string".to_owned(),
        }
    }

    /// What a map without the key asked for yields: the zero value of its elements' type.
    pub(super) fn zero_like(map: &BTreeMap<String, Self>) -> Self {
        match map.values().next() {
            Some(Self::Text(_)) | None => Self::Text(String::new()),
            Some(Self::Bool(_)) => Self::Bool(false),
            Some(Self::Int(_)) => Self::Int(0),
            Some(Self::Float(_)) => Self::Float(0.0),
            Some(Self::List(_)) => Self::List(None),
            Some(Self::Map(_)) => Self::Map(None),
            Some(
                Self::Struct(_) | Self::Nil | Self::Missing | Self::Lookup(_) | Self::LookupTitle,
            ) => Self::Nil,
        }
    }
}
