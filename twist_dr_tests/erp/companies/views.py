"""Login with a JSON body; the session then names the company."""

import json

from django.contrib import auth
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_POST


@require_POST
def login(request: HttpRequest) -> JsonResponse:
    """Takes {"username": ..., "password": ...} and answers with the session cookie."""
    try:
        body = json.loads(request.body)
        user = auth.authenticate(request, username=body["username"], password=body["password"])
    except (ValueError, KeyError, TypeError):
        return JsonResponse({"error": "username and password are needed, as JSON"}, status=400)
    if user is None:
        return JsonResponse({"error": "wrong username or password"}, status=403)
    auth.login(request, user)
    return JsonResponse({"company": user.company_id})
