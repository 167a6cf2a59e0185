//! What a `[[listener]]` table of the configuration file says.

use crate::nearest::nearest;
use crate::settings::{Given, ProgramSetting, Source, Value, expected, said_of};
use culex_core::Wall;
use culex_core::config::ListenerConfig;
use culex_runtime::{
    CertificateIdentity, CertificatePair, ClientCertificates, Demand, ListenAddress, ListenUrl, Listener,
    Origins, Pem, Tls, TlsSettings, TlsVersion, Trusted,
};

/// One listener.
#[derive(Debug, Clone)]
pub(crate) struct ListenerSettings {
    pub(crate) url: ListenUrl,
    permissions: u32,
    proxies: Option<Trusted>,
    origins: Origins,
    forwarders: Trusted,
    tls: TlsFiles,
    pub(crate) config: ListenerConfig,
    /// Where the value of each key comes from that was given.
    sources: Vec<(String, Source)>,
}

/// What TLS needs, as the keys of a table say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct TlsFiles {
    certificates: Vec<String>,
    keys: Vec<String>,
    version_min: TlsVersion,
    demand: Option<Demand>,
    authorities: Option<String>,
    revoked: Vec<String>,
    identity: CertificateIdentity,
}

/// The settings of a listener besides those in [`ListenerConfig`].
pub(crate) const LISTENER: [ProgramSetting; 12] = [
    ProgramSetting {
        key: "url",
        default: "mqtt://127.0.0.1:1883",
        doc: "Where to listen: mqtt://HOST:PORT, ws://HOST:PORT/PATH, by TLS mqtts:// and wss://, or unix:PATH. Every \
              table needs one.",
    },
    ProgramSetting {
        key: "certificate",
        default: "",
        doc: "For mqtts and wss: the PEM file with the certificate of the broker, and behind it those that lead to a root. \
              Or an array of several: a client gets the first that fits the host it asks for (SNI). SIGHUP reads all \
              files of TLS anew.",
    },
    ProgramSetting {
        key: "key",
        default: "",
        doc: "The PEM file with the private key of the certificate, not encrypted; an array if `certificate` is one.",
    },
    ProgramSetting {
        key: "tls_version_min",
        default: "1.2",
        doc: "The lowest version of TLS that is spoken: 1.2 or 1.3.",
    },
    ProgramSetting {
        key: "client_certificate",
        default: "none",
        doc: "Whether clients have to show a certificate: none, optional (one that is shown must be good) or required.",
    },
    ProgramSetting {
        key: "client_authorities",
        default: "",
        doc: "The PEM file with the authorities whose certificates of clients are good.",
    },
    ProgramSetting {
        key: "client_revoked",
        default: "",
        doc: "PEM files with lists of revoked certificates, one at least for each authority if there are any.",
    },
    ProgramSetting {
        key: "client_identity",
        default: "common-name",
        doc: "What of a certificate says who the client is: common-name, alternative-name (the first DNS name, e-mail \
              address or URI) or fingerprint (SHA-256 in hexadecimal). What becomes of it says `identity`.",
    },
    ProgramSetting {
        key: "permissions",
        default: "0660",
        doc: "Who may connect to a Unix socket: the permission bits of its file, in octal.",
    },
    ProgramSetting {
        key: "proxies",
        default: "",
        doc: "Addresses and networks (10.0.0.0/8) of the only proxies that may connect. Each connection then begins with \
              a header of the PROXY protocol, version 1 or 2, that says where the client is. Empty: no proxy.",
    },
    ProgramSetting {
        key: "origins",
        default: "same",
        doc: "Which web pages may connect by WebSocket: same (those that come from the same host and port), * for all, \
              or a list such as https://shop.example. Clients that are no browsers do not say one and are let in.",
    },
    ProgramSetting {
        key: "forwarders",
        default: "",
        doc: "Addresses and networks of HTTP proxies that are believed, by X-Forwarded-For or X-Real-IP, where a client \
              by WebSocket is.",
    },
];

/// All keys of a table.
fn keys() -> impl Iterator<Item = &'static str> {
    LISTENER
        .iter()
        .map(|setting| setting.key)
        .chain(ListenerConfig::settings().iter().map(|setting| setting.key))
}

impl ListenerSettings {
    /// A listener about which nothing is known but its URL.
    pub(crate) fn new(url: ListenUrl) -> Self {
        Self {
            url,
            permissions: Listener::PERMISSIONS,
            proxies: None,
            origins: Origins::default(),
            forwarders: Trusted::default(),
            tls: TlsFiles::default(),
            config: ListenerConfig::default(),
            sources: Vec::new(),
        }
    }

    /// What one table gives, which began at `source`.
    pub(crate) fn read(source: &Source, given: &[Given]) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let url = match given.iter().find(|given| given.key == "url") {
            None => Err(source.line("listener", "expected a url, found none")),
            Some(Given { key, value, source }) => url(value).map_err(|mistake| source.line(key, &mistake)),
        };
        // Whatever the URL is, the other keys are looked at.
        let mut listener = match url {
            Ok(url) => Self::new(url),
            Err(mistake) => {
                mistakes.push(mistake);
                Self::new("mqtt://127.0.0.1".parse().map_err(|_| Vec::new())?)
            }
        };
        for Given { key, value, source } in given.iter().filter(|given| given.key != "url") {
            match listener.set(key, value) {
                Ok(()) => listener.sources.push((key.clone(), source.clone())),
                Err(mistake) => mistakes.push(source.line(key, &mistake)),
            }
        }
        let place = given.iter().find(|given| given.key == "url").map_or(source, |given| &given.source);
        listener.sources.push(("url".to_owned(), place.clone()));
        if mistakes.is_empty() {
            mistakes = listener.check();
        }
        if mistakes.is_empty() { Ok(listener) } else { Err(mistakes) }
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "permissions" => {
                // A bare number would be one of ten digits.
                let octal = match value {
                    Value::Text(text) => u32::from_str_radix(text, 8).ok(),
                    _ => None,
                };
                self.permissions = octal.filter(|mode| *mode <= 0o777).ok_or_else(|| {
                    expected("the permission bits of a file as text, \"0660\" for instance", value)
                })?;
            }
            "proxies" => self.proxies = Some(list(value)?).filter(|list: &Trusted| !list.is_empty()),
            "origins" => self.origins = list(value)?,
            "forwarders" => self.forwarders = list(value)?,
            "certificate" => self.tls.certificates = files(value)?,
            "key" => self.tls.keys = files(value)?,
            "client_authorities" => self.tls.authorities = files(value)?.into_iter().next(),
            "client_revoked" => self.tls.revoked = files(value)?,
            "tls_version_min" => {
                self.tls.version_min =
                    one_of(value, &[("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)])?;
            }
            "client_certificate" => {
                let demands = [
                    ("none", None),
                    ("optional", Some(Demand::Optional)),
                    ("required", Some(Demand::Required)),
                ];
                self.tls.demand = one_of(value, &demands)?;
            }
            "client_identity" => {
                let identities = [
                    ("common-name", CertificateIdentity::CommonName),
                    ("alternative-name", CertificateIdentity::AlternativeName),
                    ("fingerprint", CertificateIdentity::Fingerprint),
                ];
                self.tls.identity = one_of(value, &identities)?;
            }
            _ => self.set_config(key, value)?,
        }
        Ok(())
    }

    fn set_config(&mut self, key: &str, value: &Value) -> Result<(), String> {
        let result = self.config.set(key, value.text().unwrap_or_default());
        said_of(result, value, || match nearest(key, keys()) {
            Some(near) => format!("unknown key of a listener, did you mean {near}?"),
            None => "unknown key of a listener, `culex settings` prints all of them".to_owned(),
        })
    }

    /// What contradicts each other, a line each.
    fn check(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut in_vain = |key: &str, vain: bool, what: &str| {
            if vain {
                mistakes.push(self.line(key, &format!("only for {what}, and {} is none", self.url)));
            }
        };
        let unix = matches!(self.url.address(), ListenAddress::Unix(_));
        let websocket = self.url.transport().websocket.is_some();
        in_vain("permissions", !unix && self.permissions != Listener::PERMISSIONS, "a Unix socket");
        in_vain("origins", !websocket && self.origins != Origins::default(), "WebSocket");
        in_vain("forwarders", !websocket && !self.forwarders.is_empty(), "WebSocket");
        let secure = self.url.transport().tls;
        in_vain("certificate", !secure && self.tls != TlsFiles::default(), "TLS");
        mistakes.extend(self.check_tls().filter(|_| secure));
        if let Err(error) = self.config.check() {
            let text = error.to_string();
            let (key, mistake) = text.split_once(": ").unwrap_or(("url", text.as_str()));
            mistakes.push(self.line(key, mistake));
        }
        mistakes
    }

    /// What is missing for TLS.
    fn check_tls(&self) -> Option<String> {
        let TlsFiles { certificates, keys, demand, authorities, revoked, .. } = &self.tls;
        let (key, mistake) = match (demand, authorities) {
            _ if certificates.is_empty() => ("certificate", "TLS needs one".to_owned()),
            _ if certificates.len() != keys.len() => {
                let (found, wanted) = (keys.len(), certificates.len());
                ("key", format!("expected one for each certificate, found {found} for {wanted}"))
            }
            (Some(_), None) => {
                ("client_authorities", "expected a file, because clients show certificates".to_owned())
            }
            (None, Some(_)) => {
                ("client_authorities", "only with client_certificate optional or required".to_owned())
            }
            (None, None) if !revoked.is_empty() => {
                ("client_revoked", "only with client_certificate optional or required".to_owned())
            }
            _ => return None,
        };
        Some(self.line(key, &mistake))
    }

    /// Reads the files of TLS, if it speaks that.
    ///
    /// # Errors
    /// A line that names the file, and where it is set.
    pub(crate) fn load(&self, now: Wall) -> Result<Option<Tls>, String> {
        if !self.url.transport().tls {
            return Ok(None);
        }
        let TlsFiles { certificates, keys, version_min, demand, authorities, revoked, identity } = &self.tls;
        let pairs = certificates.iter().zip(keys);
        let certificates = pairs
            .map(|(chain, key)| CertificatePair { chain: Pem::from(chain), key: Pem::from(key) })
            .collect();
        let clients = demand.zip(authorities.as_ref()).map(|(demand, authorities)| ClientCertificates {
            authorities: Pem::from(authorities),
            demand,
            revoked: revoked.iter().map(Pem::from).collect(),
            identity: *identity,
        });
        let settings = TlsSettings { certificates, clients, version_min: *version_min };
        Tls::new(settings, now).map(Some).map_err(|error| self.line("certificate", &error.to_string()))
    }

    /// A line about the value of `key`, with where it comes from.
    pub(crate) fn line(&self, key: &str, mistake: &str) -> String {
        let source = self.sources.iter().find(|(given, _)| given == key);
        match source.or(self.sources.last()) {
            Some((_, source)) => source.line(key, mistake),
            None => format!("listen: {mistake}"),
        }
    }

    /// Whether nobody gets in without a certificate from an authority that the operator chose.
    pub(crate) fn is_guarded(&self) -> bool {
        self.url.transport().tls && self.tls.demand == Some(Demand::Required)
    }

    /// Whether it has a table in the configuration file.
    pub(crate) fn is_table(&self) -> bool {
        !self.sources.is_empty()
    }

    /// The listener of the runtime.
    pub(crate) fn listener(&self, tls: Option<Tls>) -> Listener {
        let listener = Listener::new(&self.url)
            .permissions(self.permissions)
            .origins(self.origins.clone())
            .forwarders(self.forwarders.clone())
            .config(self.config.clone());
        let listener = match &self.proxies {
            Some(proxies) => listener.proxies(proxies.clone()),
            None => listener,
        };
        match tls {
            Some(tls) => listener.tls(tls),
            None => listener,
        }
    }

    /// What differs from the defaults: key, value, default.
    pub(crate) fn changed(&self) -> Vec<(&'static str, String, String)> {
        self.config.changed()
    }
}

fn url(value: &Value) -> Result<ListenUrl, String> {
    let text = value.text().ok_or_else(|| expected("a URL", value))?;
    text.parse().map_err(|error: culex_runtime::ListenUrlError| error.to_string())
}

/// Texts in an array, or one with commas between them.
fn list<T: std::str::FromStr<Err: ToString>>(value: &Value) -> Result<T, String> {
    let text = match value {
        Value::Many(texts) => texts.join(","),
        value => value.text().ok_or_else(|| expected("a text or an array of texts", value))?.to_owned(),
    };
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// Names of files: a text, or an array of them; an empty text is none.
fn files(value: &Value) -> Result<Vec<String>, String> {
    match value {
        Value::Many(names) => Ok(names.clone()),
        Value::Text(name) if name.is_empty() => Ok(Vec::new()),
        Value::Text(name) => Ok(vec![name.clone()]),
        _ => Err(expected("the name of a file or an array of them", value)),
    }
}

/// What one of a few words stands for.
fn one_of<T: Copy>(value: &Value, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| value.text() == Some(word)).map(|(_, meaning)| *meaning);
    found.ok_or_else(|| {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        expected(&words.join(" or "), value)
    })
}
