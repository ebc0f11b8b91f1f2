"""Alerts about budgets. The limits call it once for each edge, whichever process sees it first."""

from __future__ import annotations

from app.alerts.webhook import Webhook
from app.contract.alerts import Alert
from app.limits.budget_alerts import BudgetNotice, OnBudget, log_notice


def budget_alerts(webhook: Webhook) -> OnBudget:
    def on_budget(notice: BudgetNotice) -> None:
        log_notice(notice)
        webhook.send(_alert(notice))

    return on_budget


def _alert(notice: BudgetNotice) -> Alert:
    token, budget = notice.token, notice.budget
    spent = notice.share >= 1
    words = "has spent its budget" if spent else f"has used {int(notice.share * 100)} % of its budget"
    return Alert(
        "budget.blocked" if spent else "budget.warned",
        f"Token {token.name} of {token.owner} {words} {budget.text}.",
        {
            "token": token.name,
            "owner": token.owner,
            "budget": budget.text,
            "used": notice.used,
            "share": round(notice.share, 4),
            "resets_at": notice.resets_at,
        },
    )
