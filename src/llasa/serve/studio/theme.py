"""The page's colours and fonts as Gradio's own parts have them; its other parts are in studio.css."""

from typing import Any

from gradio import themes  # pyright: ignore[reportMissingImports, reportPrivateImportUsage]


def theme() -> Any:
    """Return the page's theme, of fonts that are there; colours as in studio.css."""
    teal = themes.Color(
        "#eef7f5", "#d5ebe8", "#aed8d3", "#7fc0b9", "#4ea49c", "#2a8780", "#0b6660", "#09534e", "#083f3c",
        "#062c2a", "#041c1b", name="teal",
    )  # fmt: skip
    ours = themes.Base(
        primary_hue=teal, secondary_hue=teal, neutral_hue="stone", radius_size="lg",
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )  # fmt: skip
    return ours.set(
        body_background_fill="#f8f6f1", body_background_fill_dark="#16181b", body_text_color="#1c1f24",
        body_text_color_dark="#e9e7e2", body_text_color_subdued="#5b626d",
        body_text_color_subdued_dark="#a2a8b0",
        background_fill_primary="#fffefb", background_fill_primary_dark="#1d2024",
        background_fill_secondary="#f8f6f1", background_fill_secondary_dark="#16181b",
        border_color_primary="#e2dfd8", border_color_primary_dark="#33373c",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px", block_padding="0px", block_label_text_color="#1c1f24",
        block_label_text_color_dark="#e9e7e2", block_title_text_color="#1c1f24",
        block_title_text_color_dark="#e9e7e2", block_title_text_weight="600", block_info_text_color="#5b626d",
        block_info_text_color_dark="#a2a8b0", input_background_fill="#ffffff",
        input_background_fill_dark="#16181b", input_border_color="#cfcac0", input_border_color_dark="#454a50",
        input_border_width="1px", slider_color="#0b6660", slider_color_dark="#63cdc2",
        button_primary_background_fill="#0b6660", button_primary_background_fill_hover="#09534e",
        button_primary_background_fill_dark="#63cdc2", button_primary_background_fill_hover_dark="#8adbd2",
        button_primary_text_color="#ffffff", button_primary_text_color_dark="#0d1a19",
        button_secondary_background_fill="#ffffff", button_secondary_background_fill_dark="#1d2024",
        button_secondary_border_color="#cfcac0", button_secondary_border_color_dark="#454a50",
        button_secondary_background_fill_hover="#f1eee7",
        button_secondary_background_fill_hover_dark="#2a2e33",
        checkbox_border_color="#8b8f96", checkbox_border_color_dark="#8b8f96",
        button_border_width="1px",
    )  # fmt: skip
