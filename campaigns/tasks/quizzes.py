"""Quizzes: marked here and not on the phone, each attempt once, as many as the task allows."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

from campaigns.drives.campaigns import task_for
from campaigns.drives.models import CampaignTask, TaskKind
from campaigns.drives.moves import is_running
from campaigns.drives.participation import hold_open, participation_of
from campaigns.drives.terms import questions_of
from campaigns.tasks.models import QuizAttempt
from server.access import Actor
from server.errors import Conflict, DomainError


class TaskOfAnotherKind(Conflict):
    """This is done for tasks of another kind."""

    code, title_zh, title_en = "task-of-another-kind", "该任务不是此类型", "The task is of another kind"


class QuizAnswersInvalid(DomainError):
    """An attempt answers every question, each with positions of its own options."""

    code, status, title_zh, title_en = (
        "quiz-answers-invalid",
        422,
        "请回答每一道题",
        "Answer every question with positions of its options",
    )


class AttemptsUsedUp(Conflict):
    """The quiz was answered as often as it may be."""

    code, title_zh, title_en = "attempts-used-up", "答题次数已用完", "No attempts are left"
    constraints = ("quiz_attempt_number_check",)


class AttemptTwice(Conflict):
    """Another attempt of the same person is being marked at this moment; this one was not counted."""

    code, title_zh, title_en = "attempt-twice", "另一次作答正在提交", "Another attempt is being marked"
    constraints = ("quiz_attempt_pkey",)


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What an attempt came to. Which answers were right is not told while others can still be tried."""

    number: int
    right_answers: int
    questions: int
    target: int
    passed: bool
    attempts_left: int


def attempt(
    session: Session,
    actor: Actor,
    campaign_id: UUID,
    task_id: UUID,
    *,
    answers: Sequence[frozenset[int]],
    now: datetime,
) -> AttemptResult:
    """Mark one attempt of a participant at a quiz; the best one counts.

    A question is right when exactly its right options were chosen.

    Raises NotFound, NotJoined, CampaignClosed outside the campaign's days, TaskOfAnotherKind, QuizAnswersInvalid,
    AttemptsUsedUp, and AttemptTwice through the table's key.
    """
    task = _quiz_for(session, actor, campaign_id, task_id)
    participation_of(session, actor, campaign_id)
    hold_open(session, campaign_id, *is_running(now))
    questions, attempts_max = questions_of(task) or (), task.attempts_max or 0
    if len(answers) != len(questions) or any(
        not answer <= set(range(len(question.options))) for answer, question in zip(answers, questions, strict=False)
    ):
        raise QuizAnswersInvalid
    right = sum(answer == question.right for answer, question in zip(answers, questions, strict=True))
    # The number is counted and the limit kept by the write itself; of two at once the key lets one through.
    last = sa.func.coalesce(sa.func.max(QuizAttempt.number), 0)
    counted = (
        sa.select(
            sa.literal(actor.id, sa.Uuid),
            sa.literal(task_id, sa.Uuid),
            last + 1,
            sa.literal(campaign_id, sa.Uuid),
            sa.literal(right, sa.SmallInteger),
            sa.literal(now, sa.DateTime(timezone=True)),
        )
        .where(QuizAttempt.resident_id == actor.id, QuizAttempt.task_id == task_id)
        .having(last < attempts_max)
    )
    columns = ["resident_id", "task_id", "number", "campaign_id", "right_answers", "answered_at"]
    number = session.scalar(sa.insert(QuizAttempt).from_select(columns, counted).returning(QuizAttempt.number))
    if number is None:
        raise AttemptsUsedUp
    return AttemptResult(
        number=number,
        right_answers=right,
        questions=len(questions),
        target=task.target,
        passed=right >= task.target,
        attempts_left=attempts_max - number,
    )


def own_attempts(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID) -> Sequence[QuizAttempt]:
    """The actor's attempts at a quiz, in their order. Raises NotFound, TaskOfAnotherKind."""
    _quiz_for(session, actor, campaign_id, task_id)
    return session.scalars(
        sa.select(QuizAttempt)
        .where(QuizAttempt.resident_id == actor.id, QuizAttempt.task_id == task_id)
        .order_by(QuizAttempt.number)
    ).all()


def _quiz_for(session: Session, actor: Actor, campaign_id: UUID, task_id: UUID) -> CampaignTask:
    task = task_for(session, actor, campaign_id, task_id)
    if task.kind is not TaskKind.QUIZ:
        raise TaskOfAnotherKind
    return task
