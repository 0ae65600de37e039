"""The running application's one WeChat client, shared by its threads: they share connections and the access token."""

from flask import Flask, current_app

from server.people.wechat import WeChatClient
from server.settings import Settings


def install(app: Flask, settings: Settings) -> None:
    """Give the application its WeChat client; nothing connects before the first call."""
    app.extensions["tanpuhui_wechat"] = WeChatClient(
        settings.wechat_base_url, settings.wechat_appid, settings.wechat_secret
    )


def wechat_client() -> WeChatClient:
    """The running application's WeChat client."""
    found: WeChatClient = current_app.extensions["tanpuhui_wechat"]
    return found
