"""A sign-in as the Hub offers it to Spaces (OpenID Connect), on the loopback interface; everybody agrees at once."""

import secrets
import threading
import time
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, Form
from fastapi.responses import RedirectResponse
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

CLIENT = {
    "OAUTH_CLIENT_ID": "a-space",
    "OAUTH_CLIENT_SECRET": "its-secret",
    "OAUTH_SCOPES": "openid profile read-repos",
}


class SignIn:
    """The provider as a context manager; whoever signs in is `user`, and gets `token` for the Hub."""

    def __init__(self, user: str, token: str):
        self.user, self.token = user, token
        self._key = RSAKey.generate_key(2048, {"kid": "1"})
        self._asked: dict[str, str] = {}
        config = uvicorn.Config(self._app(), port=0, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "SignIn":
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the sign-in did not start")
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *exc_info) -> None:
        self._server.should_exit = True
        self._thread.join(30)

    def env(self) -> dict[str, str]:
        """What a Space with `hf_oauth: true` finds in its environment."""
        return CLIENT | {"OPENID_PROVIDER_URL": self.url, "SYSTEM": "spaces", "SPACE_ID": "tester/demo"}

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def configuration() -> dict:
            return {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/oauth/authorize",
                "token_endpoint": f"{self.url}/oauth/token",
                "jwks_uri": f"{self.url}/oauth/jwks",
                "id_token_signing_alg_values_supported": ["RS256"],
            }

        @app.get("/oauth/authorize")
        def authorize(redirect_uri: str, state: str, nonce: str) -> RedirectResponse:
            code = secrets.token_hex(8)
            self._asked[code] = nonce
            return RedirectResponse(f"{redirect_uri}&{urlencode({'code': code, 'state': state})}")

        @app.post("/oauth/token")
        def token(code: str = Form()) -> dict:
            now = int(time.time())
            claims = {
                "iss": self.url,
                "aud": CLIENT["OAUTH_CLIENT_ID"],
                "sub": self.user,
                "iat": now,
                "exp": now + 3600,
            }
            claims |= {"nonce": self._asked.pop(code), "name": self.user, "preferred_username": self.user}
            claims |= {"profile": f"{self.url}/{self.user}", "picture": f"{self.url}/{self.user}.png"}
            signed = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self._key)
            answer = {"access_token": self.token, "token_type": "bearer", "expires_in": 3600, "id_token": signed}
            return answer | {"scope": CLIENT["OAUTH_SCOPES"]}

        @app.get("/oauth/jwks")
        def keys() -> dict:
            return KeySet([self._key]).as_dict(private=False)

        return app
