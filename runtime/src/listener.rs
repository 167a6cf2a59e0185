//! Listeners: a URL, what goes with it, and the socket that comes of it.

use crate::{ListenAddress, ListenUrl, Transport};
use culex_core::config::ListenerConfig;
use culex_link::{Layers, Origins, Tls, Trusted, WebSocketSettings};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use std::fs;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Where to listen and how: what [`Builder::listener`](crate::Builder::listener) takes.
///
/// ```
/// use culex_runtime::Listener;
///
/// let listener = Listener::new("unix:/run/culex/mqtt.sock").permissions(0o600);
/// ```
#[must_use]
#[derive(Debug)]
pub struct Listener {
    place: Place,
    permissions: u32,
    socket: Option<OwnedFd>,
    tls: Option<Tls>,
    proxies: Option<Trusted>,
    origins: Origins,
    forwarders: Trusted,
    config: Option<ListenerConfig>,
}

#[derive(Debug)]
enum Place {
    Url(String),
    Program(Transport),
}

impl Listener {
    /// The permissions of a Unix socket unless [`permissions`](Self::permissions) says otherwise: its user and group may
    /// connect.
    pub const PERMISSIONS: u32 = 0o660;

    /// A listener at a [`ListenUrl`]. A URL that is wrong is told when it is bound.
    pub fn new(url: impl ToString) -> Self {
        Self::at(Place::Url(url.to_string()))
    }

    /// A listener without a socket, for the streams that the program gives to
    /// [`Handle::accept`](crate::Handle::accept): they get its layers.
    pub fn program(transport: Transport) -> Self {
        Self::at(Place::Program(transport))
    }

    fn at(place: Place) -> Self {
        Self {
            place,
            permissions: Self::PERMISSIONS,
            socket: None,
            tls: None,
            proxies: None,
            origins: Origins::default(),
            forwarders: Trusted::default(),
            config: None,
        }
    }

    /// Who may connect to a Unix socket: the permission bits of its file, whatever the umask is. Without meaning for
    /// other listeners.
    pub fn permissions(mut self, mode: u32) -> Self {
        self.permissions = mode & 0o777;
        self
    }

    /// The certificates and what else TLS needs, for URLs that begin with `mqtts` or `wss`. Several listeners may share it.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Connections come through these proxies only, and begin with a header of the PROXY protocol, version 1 or 2, that
    /// says where the client is.
    pub fn proxies(mut self, proxies: Trusted) -> Self {
        self.proxies = Some(proxies);
        self
    }

    /// Which web pages may connect by WebSocket; those of the same origin, unless this is said.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Proxies of HTTP whose `X-Forwarded-For` or `X-Real-IP` is believed; nobody's, unless this is said.
    pub fn forwarders(mut self, forwarders: Trusted) -> Self {
        self.forwarders = forwarders;
        self
    }

    /// What its clients may do, and where their topics are: instead of the entry of
    /// [`Config::listeners`](culex_core::Config::listeners).
    pub fn config(mut self, config: ListenerConfig) -> Self {
        self.config = Some(config);
        self
    }

    pub(crate) fn machine_config(&self) -> Option<&ListenerConfig> {
        self.config.as_ref()
    }

    /// Takes this socket instead of making one: it listens already, where the URL says. Who made it removes its file.
    pub fn socket(mut self, socket: OwnedFd) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Listens.
    ///
    /// # Errors
    /// One line that names the URL: it is wrong ([`ErrorKind::InvalidInput`]) or cannot be listened on.
    pub(crate) fn bind(self) -> io::Result<Listening> {
        let Self { place, permissions, socket, tls, proxies, origins, forwarders, config: _ } = self;
        let (url, socket) = match place {
            Place::Url(text) => bind_url(&text, permissions, socket, tls.is_some())?,
            Place::Program(transport) if transport.tls && tls.is_none() => {
                return Err(io::Error::new(ErrorKind::InvalidInput, WITHOUT_TLS));
            }
            Place::Program(transport) => (ListenUrl::new(transport, ListenAddress::Program), None),
        };
        let websocket = url.transport().websocket.clone();
        let websocket = websocket.map(|path| WebSocketSettings { path, origins, forwarded: forwarders });
        if tls.is_some() && !url.transport().tls {
            // Who gives certificates believes that nobody can listen in.
            let why = format!("{url} has certificates but speaks no TLS: its scheme would be mqtts or wss");
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        let layers = Layers { proxy: proxies, tls, websocket };
        Ok(Listening { url, socket, layers })
    }
}

fn bind_url(
    text: &str,
    permissions: u32,
    socket: Option<OwnedFd>,
    has_tls: bool,
) -> io::Result<(ListenUrl, Option<ListenSocket>)> {
    let url: ListenUrl = text.parse().map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let bound = match socket {
        _ if url.transport().tls && !has_tls => Err(io::Error::new(ErrorKind::InvalidInput, WITHOUT_TLS)),
        Some(socket) => ListenSocket::given(socket, &url),
        None => ListenSocket::bind(&url, permissions),
    };
    let socket = bound.map_err(|error| {
        let why = match error.kind() {
            // Without what the caller said and the number of the error.
            kind @ (ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable | ErrorKind::PermissionDenied)
                if error.raw_os_error().is_some() =>
            {
                kind.to_string()
            }
            _ => error.to_string(),
        };
        io::Error::new(error.kind(), format!("cannot listen on {url}: {why}"))
    })?;
    let url = socket.local_addr().map(|address| url.bound_to(address)).unwrap_or(url);
    Ok((url, Some(socket)))
}

/// A listener whose socket is there.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) url: ListenUrl,
    pub(crate) socket: Option<ListenSocket>,
    pub(crate) layers: Layers,
}

/// A socket that listens and does not block.
#[derive(Debug)]
pub enum ListenSocket {
    /// A port of TCP.
    Tcp(TcpListener),
    /// A Unix socket, with its file unless somebody else made it.
    Unix(UnixListener, Option<SocketFile>),
}

/// A connection that was accepted.
#[derive(Debug)]
pub enum Accepted {
    /// By TCP.
    Tcp(TcpStream),
    /// By a Unix socket.
    Unix(UnixStream),
}

impl ListenSocket {
    /// Whether what is accepted has `TCP_NODELAY`, because its listener has: without it small packets would wait for
    /// acknowledgements. A system call less for each connection.
    pub const GIVES_NODELAY: bool = cfg!(target_os = "linux");

    /// Accepts a connection, which does not block either. The address is that of a peer by TCP.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`]: nobody waits. For any other ask [`AcceptErrors`](crate::AcceptErrors).
    pub fn accept(&self) -> io::Result<(Accepted, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept()?;
                stream.set_nonblocking(true)?;
                if !Self::GIVES_NODELAY {
                    let _ = stream.set_nodelay(true);
                }
                Ok((Accepted::Tcp(stream), Some(address)))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(true)?;
                Ok((Accepted::Unix(stream), None))
            }
        }
    }

    /// The same socket once more, for another shard: each connection is accepted by one of them. A file stays with the
    /// first.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(listener.try_clone()?),
            Self::Unix(listener, _) => Self::Unix(listener.try_clone()?, None),
        })
    }

    /// The address of a listener of TCP.
    pub(crate) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// With a backlog for a whole fleet that reconnects at once.
    fn bind(url: &ListenUrl, permissions: u32) -> io::Result<Self> {
        match url.address() {
            ListenAddress::Unix(path) => bind_unix(path, permissions),
            _ => {
                let listener = TcpListener::bind(&url.resolve()?[..])?;
                // The standard library's backlog differs between platforms: set it again.
                rustix::net::listen(&listener, BACKLOG)?;
                listener.set_nonblocking(true)?;
                // Without success it is merely slow.
                let _ = sockopt::set_tcp_nodelay(&listener, true);
                Ok(Self::Tcp(listener))
            }
        }
    }

    /// A socket that somebody else bound.
    fn given(socket: OwnedFd, url: &ListenUrl) -> io::Result<Self> {
        let unfit = |why| io::Error::new(ErrorKind::InvalidInput, why);
        #[cfg(target_os = "linux")]
        if !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
            return Err(unfit("the socket that was given for it does not listen"));
        }
        if sockopt::socket_type(&socket).ok() != Some(SocketType::STREAM) {
            return Err(unfit("the socket that was given for it is no stream"));
        }
        let unix = matches!(url.address(), ListenAddress::Unix(_));
        if unix != (rustix::net::getsockname(&socket)?.address_family() == AddressFamily::UNIX) {
            return Err(unfit("the socket that was given for it is of another kind"));
        }
        let given = if unix { Self::Unix(socket.into(), None) } else { Self::Tcp(socket.into()) };
        match &given {
            Self::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                let _ = sockopt::set_tcp_nodelay(listener, true);
            }
            Self::Unix(listener, _) => listener.set_nonblocking(true)?,
        }
        Ok(given)
    }
}

impl AsFd for ListenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl From<Accepted> for OwnedFd {
    fn from(accepted: Accepted) -> Self {
        match accepted {
            Accepted::Tcp(stream) => stream.into(),
            Accepted::Unix(stream) => stream.into(),
        }
    }
}

/// The file has its permissions before anybody can connect: a socket that is bound refuses until it listens.
fn bind_unix(path: &Path, permissions: u32) -> io::Result<ListenSocket> {
    // The file is still to be found when the program has changed its directory.
    let path = std::path::absolute(path)?;
    let address = SocketAddrUnix::new(&path)
        .map_err(|_| io::Error::new(ErrorKind::InvalidInput, "the path of a socket has at most 107 bytes"))?;
    remove_dead(&path)?;
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::net::bind(&socket, &address)?;
    let file = SocketFile::of(path)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(permissions))?;
    rustix::net::listen(&socket, BACKLOG)?;
    let listener = UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(ListenSocket::Unix(listener, Some(file)))
}

/// Removes the socket of a broker that ended without doing so; anything else stays and is an error.
fn remove_dead(path: &Path) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "somebody listens there already")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The file of a Unix socket. Dropping it removes the file, unless another took its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn of(path: PathBuf) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(&path)?;
        Ok(Self { path, device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            // Without success the next broker finds that it is dead.
            let _ = fs::remove_file(&self.path);
        }
    }
}

const WITHOUT_TLS: &str = "TLS needs a certificate and its key";
/// Connections that wait to be accepted; the system may cap it.
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::id;

    /// A path that no other test has.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("culex-{name}-{}.sock", id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn bind(url: &str) -> io::Result<Listening> {
        Listener::new(url).bind()
    }

    fn said(url: &str) -> String {
        let error = bind(url).unwrap_err().to_string();
        error.strip_prefix(&format!("cannot listen on {url}: ")).unwrap_or(&error).to_owned()
    }

    #[test]
    fn a_busy_port_is_told_in_one_line() {
        let first = bind("mqtt://127.0.0.1:0").unwrap();
        let url = first.url.to_string();
        let error = bind(&url).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {url}: address in use"));
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn what_is_accepted_does_not_wait_for_acknowledgements() {
        let given = TcpListener::bind("127.0.0.1:0").unwrap();
        for listener in
            [Listener::new("mqtt://127.0.0.1:0"), Listener::new("mqtt://127.0.0.1:0").socket(given.into())]
        {
            let socket = listener.bind().unwrap().socket.unwrap();
            let _client = TcpStream::connect(socket.local_addr().unwrap()).unwrap();
            let Ok((Accepted::Tcp(accepted), _)) = socket.accept() else { panic!("nobody is there") };
            assert!(accepted.nodelay().unwrap());
        }
    }

    #[test]
    fn tls_needs_certificates() {
        assert_eq!(said("mqtts://127.0.0.1:0"), WITHOUT_TLS);
        assert_eq!(said("wss://127.0.0.1:0/mqtt"), WITHOUT_TLS);
    }

    #[test]
    #[cfg(feature = "testing")]
    fn certificates_without_tls_are_a_mistake() {
        let listener = Listener::program(Transport::mqtt()).tls(crate::testing::tls::broker());
        assert_eq!(listener.bind().unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_unix_socket_has_its_permissions_and_is_removed_with_its_listener() {
        let path = path("permissions");
        let url = format!("unix:{}", path.display());
        for (listener, mode) in [
            (Listener::new(&url), Listener::PERMISSIONS),
            (Listener::new(&url).permissions(0o606), 0o606),
            (Listener::new(&url).permissions(0o777), 0o777),
        ] {
            let listening = listener.bind().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(listening.url.to_string(), url);
            drop(listening);
            assert!(!path.exists());
        }
    }

    #[test]
    fn the_socket_of_a_dead_broker_is_replaced() {
        let path = path("dead");
        let url = format!("unix:{}", path.display());
        // The standard library leaves the file behind, as a broker that is killed does.
        drop(UnixListener::bind(&path).unwrap());
        let listening = bind(&url).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(listening.socket.unwrap().accept().is_ok());
        assert!(!path.exists());
    }

    #[test]
    fn what_is_no_dead_socket_stays() {
        let path = path("living");
        let url = format!("unix:{}", path.display());
        let living = bind(&url).unwrap();
        assert_eq!(said(&url), "somebody listens there already");
        assert_eq!(bind(&url).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(living);
        fs::write(&path, "precious").unwrap();
        assert_eq!(said(&url), "there is a file that is no socket");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_took_the_place_of_the_socket_is_not_removed() {
        let path = path("replaced");
        let listening = bind(&format!("unix:{}", path.display())).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another").unwrap();
        drop(listening);
        assert_eq!(fs::read(&path).unwrap(), b"another");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        assert_eq!(said(&format!("unix:/{}", "x".repeat(120))), "the path of a socket has at most 107 bytes");
        assert_eq!(said("unix:/nowhere/at/all/x"), "No such file or directory (os error 2)");
    }

    #[test]
    fn a_socket_that_was_given_must_listen_and_be_of_the_kind_of_the_url() {
        let given = |socket: OwnedFd, url: &str| Listener::new(url).socket(socket).bind();
        let tcp = || TcpListener::bind("127.0.0.1:0").unwrap();
        let listening = given(tcp().into(), "mqtt://127.0.0.1:0").unwrap();
        assert!(!listening.url.to_string().ends_with(":0"));
        for (socket, url, wrong) in [
            (tcp().into(), "unix:/x", "of another kind"),
            (UnixStream::pair().unwrap().0.into(), "unix:/x", "does not listen"),
            (std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into(), "mqtt://127.0.0.1:1", "not listen"),
        ] {
            let error = given(socket, url).unwrap_err().to_string();
            assert!(error.ends_with(wrong), "{error}");
        }
    }
}
