"""TLS contexts from settings: one for a listener, one for the backends of a pool."""

import ssl
from pathlib import Path

from gateway.config_security import Tls
from gateway.core.pool import BackendTls
from gateway.errors import ConfigError

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def listener_context(tls: Tls, where: str) -> ssl.SSLContext:
    """The server's side; `where` stands before the key in a ConfigError's text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    # A renegotiation costs us more than the client that asks for it.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    _load_chain(context, tls.cert_file, tls.key_file, where)
    if tls.client_ca_file:
        _load_authorities(context, tls.client_ca_file, f"{where}.client_ca_file")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def backend_context(tls: BackendTls, where: str) -> ssl.SSLContext:
    """The client's side; `where` stands before the key in a ConfigError's text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif tls.ca_file:
        _load_authorities(context, tls.ca_file, f"{where}.ca_file")
    else:
        context.load_default_certs()
    if tls.cert_file:
        _load_chain(context, tls.cert_file, tls.key_file, where)
    return context


def listener_files(tls: Tls | None) -> list[str]:
    """The files a listener's context is made from."""
    return [tls.cert_file, tls.key_file, tls.client_ca_file] if tls else []


def backend_files(tls: BackendTls) -> list[str]:
    """The files a pool's context is made from."""
    return [tls.ca_file, tls.cert_file, tls.key_file]


def _load_chain(context: ssl.SSLContext, cert_file: str, key_file: str, where: str) -> None:
    for name, path in (("cert_file", cert_file), ("key_file", key_file)):
        _readable(path, f"{where}.{name}")

    def no_password() -> str:
        raise ConfigError([f"{where}: the private key in {key_file or cert_file} has a password; store it without one"])

    try:
        context.load_cert_chain(cert_file, key_file or None, password=no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        pair = f"{cert_file} and {key_file}" if key_file else cert_file
        raise ConfigError([f"{where}: no certificate with its private key in {pair}: {reason}"]) from error


def _load_authorities(context: ssl.SSLContext, path: str, where: str) -> None:
    _readable(path, where)
    try:
        context.load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError) as error:
        raise ConfigError([f"{where}: {path} holds no certificates: {getattr(error, 'reason', error)}"]) from error


def _readable(path: str, where: str) -> None:
    """OpenSSL's own messages name no file."""
    if not path:
        return
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError([f"{where}: cannot read {path}: {error.strerror}"]) from error
