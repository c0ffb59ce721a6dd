"""What stands around the conversation: the name, the counter of votes, the links. Pure."""

from ui.gateway import Progress
from ui.icons import icon


def progress_html(progress: Progress) -> str:
    """How many votes are missing until the next training."""
    if progress.training:
        return '<div class="progress"><p><span class="pulse"></span>A new version is being trained.</p></div>'
    done, needed = min(progress.new, progress.needed), max(progress.needed, 1)
    told = f"{done} of {needed} votes until the next training" if done < needed else "Enough votes for a training"
    return (
        f'<div class="progress"><p id="votes-told">{told}</p><div class="meter" role="progressbar" '
        f'aria-labelledby="votes-told" aria-valuemin="0" aria-valuemax="{needed}" aria-valuenow="{done}">'
        f'<span style="width:{100 * done / needed:.0f}%"></span></div></div>'
    )


def brand_html() -> str:
    return '<a class="brand" href="/">Burnish</a>'


def bar_html() -> str:
    """The bar over the conversation on a narrow screen."""
    return (
        f'<button class="tool" type="button" data-drawer aria-controls="side" aria-expanded="false" '
        f'aria-label="Conversations">{icon("menu")}</button><a class="brand" href="/">Burnish</a>'
    )


def foot_html() -> str:
    return f'<a href="/status/">Status</a>{theme_toggle_html()}'


def theme_toggle_html() -> str:
    return (
        '<button class="tool theme-toggle" type="button" data-theme-toggle aria-label="Switch to dark">'
        f"{icon('sun')}{icon('moon')}</button>"
    )
