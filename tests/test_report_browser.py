"""The page of a report in a real browser: nothing asked for, nothing wrong, tables that sort."""

import json
import os
import shutil

import pytest
from report_pages import EVIL, small_report
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from regnet_backbones.report.page import write_page

# Chromium is told to look for nothing on a network by itself.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PHONE = 390  # pixels wide
LONG = "a_class_with_a_name_that_is_longer_than_any_phone_is_wide_and_has_no_space_to_break_at"

REQUIRED = "REGNET_BACKBONES_BROWSER"
PROGRAMS = ("chromium", "chromedriver")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    programs = [shutil.which(name) for name in PROGRAMS]
    if not all(programs):
        reason = f"needs {' and '.join(PROGRAMS)}: apt-get install chromium chromium-driver"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    chromium, chromedriver = programs
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.ignore_local_proxy_environment_variables()  # chromedriver is on this machine
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, small_report(EVIL + LONG))
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    """Return the browser with the page open, and nothing else in its logs."""
    width(browser, 1280)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(address)
    return browser


def width(browser, pixels):
    """Show pages as a screen of this width does."""
    screen = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def test_there_are_no_errors(page):
    assert page.get_log("browser") == []
    assert page.title == f"Unet on {EVIL}{LONG}: training report"


def test_nothing_is_asked_of_a_network(page, address):
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert address in asked
    assert all(url == address or url.startswith("data:") for url in asked)


def test_all_images_are_shown(page):
    images = page.find_elements(By.TAG_NAME, "img")
    assert len(images) == 6  # two charts in light and in dark, and two pictures
    for image in images:
        assert page.execute_script("return arguments[0].complete", image)
        assert int(image.get_property("naturalWidth")) > 0


def test_a_click_on_the_head_sorts(page):
    table = page.find_element(By.CSS_SELECTOR, "table.sortable")
    by_name, by_ap = table.find_elements(By.CSS_SELECTOR, "th button")

    def names():
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody td.name")]

    first, *_ = original = names()
    assert original == [first, "b", "c", "d"]  # 9.5, 10.25, none, -1
    by_ap.click()
    assert names() == ["b", first, "d", "c"]  # as numbers, of which the missing one is last
    assert by_ap.find_element(By.XPATH, "..").get_attribute("aria-sort") == "descending"
    by_ap.click()
    assert names() == ["d", first, "b", "c"]
    by_name.click()
    assert names() == [first, "b", "c", "d"]
    by_name.click()
    assert names() == ["d", "c", "b", first]
    assert by_ap.find_element(By.XPATH, "..").get_attribute("aria-sort") is None


@pytest.mark.parametrize("pixels", [PHONE, 1280])
def test_nothing_is_wider_than_the_screen(page, pixels):
    width(page, pixels)
    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert wide <= page.execute_script("return window.innerWidth") == pixels


def test_the_whole_config_is_folded_away(page):
    details = page.find_element(By.TAG_NAME, "details")
    config = details.find_element(By.TAG_NAME, "pre")
    assert not config.is_displayed()
    details.find_element(By.TAG_NAME, "summary").click()
    assert config.is_displayed()
    assert config.text == f"a: {EVIL}{LONG}"


def test_the_page_is_light_or_dark_as_the_system_is(page):
    def shown(scheme, media="screen"):
        """Return the brightness of paper and of ink, and which charts there are."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        emulated = {"media": media, "features": features}
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", emulated)
        colours = page.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        sums = [sum(map(int, c[c.index("(") + 1 : -1].split(",")[:3])) for c in colours]
        charts = page.find_elements(By.CSS_SELECTOR, ".charts img")
        return *sums, {chart.get_attribute("class") for chart in charts if chart.is_displayed()}

    paper, ink, charts = shown("light")
    assert paper > 700 > 200 > ink
    assert charts == {"light"}
    dark_paper, dark_ink, dark_charts = shown("dark")
    assert dark_ink > 600 > 100 > dark_paper
    assert dark_charts == {"dark"}
    assert shown("dark", media="print") == (paper, ink, charts)
