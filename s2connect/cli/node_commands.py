"""The commands ``node list``, ``add``, ``alias`` and ``remove``: what one endpoint hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from s2connect.cli.terminal import (
    BrandOption,
    KindOption,
    ModelOption,
    NameOption,
    Options,
    RoleOption,
    YesOption,
    confirm_end_of_pairings,
    description,
    examples,
    register,
    with_options,
)
from s2connect.errors import UsageError

if TYPE_CHECKING:
    from s2connect.model.common import NodeId
    from s2connect.service.objects import OwnNode

app = typer.Typer(
    help="What this endpoint hosts: list, add, name and remove energy managers and devices.",
    epilog=examples("s2connect node list", "s2connect node add --role rm --name Battery"),
    no_args_is_help=True,
)

MAX_NAMED = 20  # most pairings that a question names
_Node = Annotated[str, typer.Argument(metavar="NODE", help="Its alias, its name, or its id.")]


def _id_of(text: str | None) -> NodeId | None:
    from uuid import UUID

    from s2connect.model.common import NodeId

    try:
        return None if text is None else NodeId(UUID(text))
    except ValueError:
        raise UsageError("--id takes a UUID, such as 6a5bd1b6-6d7e-4a5c-9d0e-0f5f7b1f2a31.") from None


def _named(nodes: Sequence[OwnNode]) -> str:
    from s2connect.cli.show import own_name

    return ", ".join(own_name(one) for one in nodes)


@with_options("s2connect node list", "s2connect node list --json", name="list")
def list_nodes(options: Options) -> None:
    """List the nodes of this endpoint, and with how many others each is paired."""
    from s2connect.cli.show import own_nodes_block
    from s2connect.service.commands import Status

    found = options.ask(Status(newest=1))
    options.show({"nodes": found.nodes}, lambda width: [own_nodes_block(found.nodes, found.pairings_of_nodes, width)])


@with_options(
    "s2connect node add --role rm --brand Acme --model 'Cellar Battery'", "s2connect node add --role rm --alias B"
)
def add(
    options: Options,
    role: RoleOption,
    brand: BrandOption = None,
    kind: KindOption = None,
    model: ModelOption = None,
    name: NameOption = None,
    node_id: Annotated[
        str | None,
        typer.Option("--id", metavar="UUID", help="Its id, e.g. of a device for which a vendor's server pairs."),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Short name in front of its codes; the next number if not given.")
    ] = None,
) -> None:
    """Add an energy manager or a device to this endpoint, also while the service runs.

    Where there are several, each has an alias, with which its codes begin. The first node gets one when the second
    comes: codes and stickers without it do not work any more.
    """
    from s2connect.cli.show import own_name
    from s2connect.service.commands import AddNode, Status

    before = {one.id: one.alias for one in options.ask(Status()).nodes}
    result = options.ask(AddNode(node_id=_id_of(node_id), alias=alias, **description(role, brand, kind, model, name)))
    added = next(one for one in result.nodes if one.id == result.node)
    changed = [one for one in result.nodes if before.get(one.id, one.alias) != one.alias]
    options.report(
        result,
        f"Added {own_name(added)}.",
        *(
            f"{own_name(one)} has an alias now: its codes begin with {one.alias}-, and one that was shown or printed "
            "before does not work any more. Its pairings stay."
            for one in changed
        ),
        *_if_long(added.alias),
        f"Next: {options.command_line('code')} --node {added.alias or added.id}",
    )


@with_options("s2connect node alias 2 B")
def alias(
    options: Options,
    node: _Node,
    new: Annotated[str, typer.Argument(metavar="ALIAS", help="Letters and digits; a number or two letters are best.")],
) -> None:
    """Give a node another alias. Its pairings stay; codes that begin with the old alias do not work any more."""
    from s2connect.cli.show import own_name
    from s2connect.service.commands import SetAlias

    result = options.ask(SetAlias(node=node, alias=new))
    changed = next(one for one in result.nodes if one.id == result.node)
    options.report(
        result, f"The codes of {own_name(changed)} begin with {changed.alias}- now.", *_if_long(changed.alias)
    )


@with_options("s2connect node remove 2", "s2connect node remove 2 --yes", "s2connect node remove 2 --forget --yes")
def remove(
    options: Options,
    node: _Node,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also if another side cannot be reached, e.g. is broken.")
    ] = False,
    yes: YesOption = False,
) -> None:
    """Remove a node: this ends its pairings. Asks before."""
    from s2connect.cli.show import own_name, titled
    from s2connect.service.commands import Pairings, RemoveNode, Status
    from s2connect.service.objects import own_node

    found = own_node(options.ask(Status(newest=1)).nodes, node)
    if not yes:
        page = options.ask(Pairings(node=str(found.id)))
        ends = "; ".join(titled(one.peer) for one in page.pairings[:MAX_NAMED])
        if page.total > MAX_NAMED:
            ends += f" and {page.total - MAX_NAMED} more"
        with_whom = f"Its pairings end: {ends}." if page.total else "It is paired with nobody."
        confirm_end_of_pairings(
            f"This removes {own_name(found)}. {with_whom}", "Remove it?", yes=False, as_json=options.as_json
        )
    result = options.ask(RemoveNode(node=str(found.id), forget=forget))
    lines = [
        f"Removed {own_name(found)}. Pairings that ended: {len(result.pairings)}.",
        f"Left: {_named(result.nodes)}.",
    ]
    options.report(result, *lines)


def _if_long(alias: str | None) -> list[str]:
    """Return what an alias means to whoever types codes, where it is longer than ours."""
    from s2connect.model.alphabet import MAX_ALIAS_CHARACTERS
    from s2connect.pairing.code import TOKEN_CHARACTERS

    typed = len(alias or "") + len("-") + TOKEN_CHARACTERS
    if len(alias or "") <= MAX_ALIAS_CHARACTERS:
        return []
    return [f"Its codes have {typed} characters to type; with a number or two letters in front at most 15."]


register(app, list_nodes, add, alias, remove)
