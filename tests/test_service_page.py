"""The page of the service, driven in a real browser the way a person would."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver import ActionChains, Keys  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from support.files import random_kspace, write_fastmri  # noqa: E402
from support.service import TOKEN, Running  # noqa: E402

pytestmark = pytest.mark.skipif(
    shutil.which("chromedriver") is None or shutil.which("chromium") is None,
    reason="Chromium and its driver are not installed",
)


@pytest.fixture
def browser(service: Running, tmp_path: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1600", "--no-proxy-server"):
        options.add_argument(option)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    settings: dict[str, Any] = {"download.default_directory": str(tmp_path / "downloads")}
    settings["profile.default_content_setting_values.automatic_downloads"] = 1  # several, without asking
    options.add_experimental_option("prefs", settings)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    os.environ.setdefault("SE_OFFLINE", "true")
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        driver.get(service.address + "/")
        yield driver
        severe = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert [message for message in severe if "401" not in message] == []  # a wrong token is tried on purpose
    finally:
        driver.quit()


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something."""
    late = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < late, "it did not come"
        time.sleep(0.05)
    return found


def log_in(browser: Any, token: str = TOKEN) -> None:
    browser.find_element(By.ID, "token").send_keys(token + Keys.ENTER)


def canvas(browser: Any) -> np.ndarray:
    """Grey values that are shown, ``(y, x)``."""
    script = """
        const canvas = document.getElementById('canvas');
        return [canvas.height, canvas.width,
                Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)];
    """
    height, width, values = browser.execute_script(script)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., 0]


def test_the_whole_trip(browser: Any, tmp_path: Path) -> None:
    """Log in, send, watch, look at slices, change the window, compare, download, delete."""
    (tmp_path / "downloads").mkdir()
    scan = write_fastmri(tmp_path / "head.h5", random_kspace((5, 2, 48, 40)))
    find = browser.find_element
    log_in(browser, "wrong-" + "x" * 40)
    until(lambda: find(By.ID, "trouble").is_displayed())
    assert "token" in find(By.ID, "trouble").text
    log_in(browser)
    until(lambda: find(By.ID, "inside").is_displayed())
    assert not find(By.ID, "login").is_displayed()
    names = [option.text for option in find(By.ID, "method").find_elements(By.TAG_NAME, "option")]
    assert {"default", "l1-wavelet", "unrolled"} <= set(names)
    find(By.ID, "method").send_keys("l1-wavelet")
    find(By.ID, "accelerate").send_keys("2")
    find(By.ID, "file").send_keys(str(scan))
    state = until(lambda: browser.find_elements(By.CSS_SELECTOR, "#jobs .state"))[0]
    until(lambda: state.text == "done", 120)
    find(By.CSS_SELECTOR, "#jobs .open").click()
    until(lambda: find(By.ID, "viewer").is_displayed() and find(By.ID, "slice-text").text == "3 of 5")
    facts = find(By.ID, "facts").text
    for words in ("l1-wavelet", "Data residual", "Predicted error", "SSIM"):
        assert words in facts
    assert "nominal" in find(By.ID, "warnings").text

    # slices by key and wheel
    stage = find(By.ID, "stage")
    browser.execute_script("arguments[0].focus(); arguments[0].scrollIntoView()", stage)
    third = canvas(browser)
    assert third.std() > 5
    ActionChains(browser).send_keys(Keys.ARROW_UP).perform()
    until(lambda: find(By.ID, "slice-text").text == "4 of 5")
    assert (canvas(browser) != third).any()
    browser.execute_script("arguments[0].dispatchEvent(new WheelEvent('wheel', {deltaY: -1, cancelable: true}))", stage)
    until(lambda: find(By.ID, "slice-text").text == "3 of 5")
    np.testing.assert_array_equal(canvas(browser), third)

    # left of the line lies the picture without a method
    for _ in range(20):
        ActionChains(browser).send_keys(Keys.ARROW_LEFT).perform()
    until(lambda: find(By.ID, "compare").get_attribute("value") == "0")
    result = canvas(browser)
    half = result.shape[1] // 2
    np.testing.assert_array_equal(result[:, half:], third[:, half:])
    assert (result[:, :half] != third[:, :half]).any()

    # a drag changes the window, a button resets it
    ActionChains(browser).drag_and_drop_by_offset(stage, 80, 30).perform()
    assert (canvas(browser) != result).mean() > 0.5
    find(By.ID, "reset").click()
    until(lambda: (canvas(browser) == result).all())

    for button in find(By.ID, "downloads").find_elements(By.TAG_NAME, "button"):
        if button.text in ("h5", "nifti"):
            button.click()
    until(lambda: len([path for path in (tmp_path / "downloads").iterdir() if path.suffix in (".h5", ".gz")]) == 2)
    assert (tmp_path / "downloads" / "head_reconstruction.h5").read_bytes().startswith(b"\x89HDF")

    find(By.CSS_SELECTOR, "#jobs .delete").click()
    until(lambda: not browser.find_elements(By.CSS_SELECTOR, "#jobs li"))
    assert not find(By.ID, "viewer").is_displayed()
    find(By.ID, "leave").click()
    assert find(By.ID, "login").is_displayed()
    assert browser.execute_script("return sessionStorage.getItem('token')") is None


def test_what_failed_says_why_and_names_are_only_words(browser: Any, tmp_path: Path) -> None:
    bad = tmp_path / "<img src=x onerror=alert(1)>.h5"
    bad.write_bytes(b"no scan at all, and long enough to be looked at")
    log_in(browser)
    until(lambda: browser.find_element(By.ID, "inside").is_displayed())
    browser.find_element(By.ID, "file").send_keys(str(bad))
    line = until(lambda: [li for li in browser.find_elements(By.CSS_SELECTOR, "#jobs li") if "img" in li.text])[0]
    until(lambda: "no known format" in line.find_element(By.CSS_SELECTOR, ".reason").text)
    assert browser.find_elements(By.CSS_SELECTOR, "#jobs img") == []
    assert not line.find_element(By.CSS_SELECTOR, ".open").is_enabled()


def drop(browser: Any, file: Path) -> None:
    """Drag a file of this machine onto the page and let go, as the mouse would."""
    place = browser.find_element(By.ID, "drop").rect
    at = {"x": place["x"] + place["width"] / 2, "y": place["y"] + place["height"] / 2}
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        browser.execute_cdp_cmd("Input.dispatchDragEvent", {"type": step, **at, "data": data})


def test_a_file_can_be_dropped(browser: Any, tmp_path: Path) -> None:
    scan = write_fastmri(tmp_path / "dropped.h5", random_kspace((3, 2, 32, 30)))
    log_in(browser)
    until(lambda: browser.find_element(By.ID, "inside").is_displayed())
    browser.find_element(By.ID, "method").send_keys("zero-filled")
    drop(browser, scan)
    line = until(lambda: [li for li in browser.find_elements(By.CSS_SELECTOR, "#jobs li") if "dropped.h5" in li.text])[
        0
    ]
    until(lambda: line.find_element(By.CSS_SELECTOR, ".state").text == "done")
    assert line.find_element(By.CSS_SELECTOR, ".open").is_enabled()
    assert browser.current_url.endswith("/")  # the browser has not opened the file itself


def test_a_drop_without_a_token_is_refused(browser: Any) -> None:
    dropped = """
        const dropped = new DataTransfer();
        dropped.items.add(new File(['no scan, but long enough to be looked at'], 'dropped.h5'));
        const event = new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true});
        document.getElementById('drop').dispatchEvent(event);
    """
    browser.execute_script(dropped)
    until(lambda: "Log in first" in browser.find_element(By.ID, "trouble").text)
    assert browser.find_element(By.ID, "trouble").is_displayed()


def test_it_is_readable_in_the_dark(browser: Any) -> None:
    """Text and paper change places with the system's scheme, and stay far apart (WCAG 2.2: 7 to 1)."""
    found = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        text, paper = (luminance(colour) for colour in browser.execute_script(style))
        assert (max(text, paper) + 0.05) / (min(text, paper) + 0.05) > 7
        found[scheme] = text > paper
        shown = imread(io.BytesIO(browser.get_screenshot_as_png()))[..., :3]
        assert (float(np.median(shown)) < 0.25) == (scheme == "dark")  # the whole picture, not only its colours' names
    assert found == {"light": False, "dark": True}


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, as WCAG 2.2 defines it."""
    parts = np.array([int(part) for part in colour[4:-1].split(",")]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("width", [360, 1100])
def test_it_fits_the_screen(browser: Any, width: int) -> None:
    browser.set_window_size(width, 900)
    log_in(browser)
    until(lambda: browser.find_element(By.ID, "inside").is_displayed())
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide == 0
