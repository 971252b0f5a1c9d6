"""The same words, two situations, two answers."""

from promptguard import Context, Guard

guard = Guard()
prompt = "Delete all accounts that have not logged in this year."
situations = {
    "database agent": Context(
        system_prompt="You maintain the staging database. Database administrators may delete and truncate tables here.",
        user_role="database administrator",
        source="user",
    ),
    "shop chat": Context(
        system_prompt="You are the chat of a shoe shop. Help customers with sizes, orders and returns.",
        user_role="customer",
        source="user",
    ),
}
for name, context in situations.items():
    analysis = guard.analyze(prompt, context)
    print(f"{name}: {analysis.decision.value}, {analysis.intent}, risk {analysis.risk:.2f}")
